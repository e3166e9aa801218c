"""The files of a training project that depend on how it is trained: optimisers, averages, the rate's course."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from latentc.components.optimizer import Optimizer
from latentc.emit.model import assembled, in_support
from latentc.emit.text import commas, docstring, layout, literal
from latentc.emit.updates import regions_of
from latentc.files.templates import rendered, template, with_regions
from latentc.ir.core import Module, walk
from latentc.spec.sections import PowerEma, WarmEma

if TYPE_CHECKING:
    from latentc.spec.sections import Train

_ABSENT = "OPTIMIZERS: dict[str, dict[str, tuple[Rule, str]]] = {}\n"  # in the template of config.py
_LOGS = 'some_of("tensorboard", "csv")'
_PRECISIONS = 'one_of("fp32", "bf16")'


def training_regions(
    train: Train,
    module: Module | None = None,
    rolls_out: bool = False,
    grown: bool = False,
    updates: Collection[str] = (),
) -> set[str]:
    """The regions of the templates that a project has, as far as they depend on how it is trained.

    `module` holds the networks that are trained; `rolls_out`: they learn from samples that they draw; `grown`: the
    decay of an average rises with time grids. `updates`: the optional fields that the class Update has.
    """
    extras = _extras(train)
    regions = _regions(train, module) | extras | {"rollouts" if rolls_out else "batches", "grown" if grown else "even"}
    return regions | regions_of(updates) | ({"patterns"} if {"undecayed", "first_layer"} & extras else set())


def training_files(
    train: Train, module: Module | None = None, regions: Collection[str] | None = None
) -> dict[str, str]:
    """{file name: text} of optimizers.py, config.py, train.py, and of what these need: sam.py, orthogonal.py, ema.py,
    reconstruct.py, batch_norm.py, weight_norm.py, rollouts.py.

    `regions` of the templates; by default those that depend on the training of the networks in `module`.
    """
    regions = training_regions(train, module) if regions is None else regions
    chosen = _chosen(train)
    kinds = {optimizer.kind: type(optimizer) for optimizer in chosen}
    extras = _extras(train)
    definitions = [kind.SOURCE.strip() for kind in kinds.values() if kind.SOURCE]
    undecayed = "undecayed" in extras
    named = undecayed or "first_layer" in extras
    given = {"construction": _construction(kinds), "definitions": definitions, "undecayed": undecayed}
    given |= {"layered": "layer_decay" in extras, "first_layer": "first_layer" in extras}
    body = rendered("project/support/optimizers.py", given, trim=False)
    says = "The optimisers of config.yaml. Biases and norms never decay, embeddings only with `decay_embeddings`"
    head = docstring(f"{says}, and no weight that `undecayed` names." if undecayed else f"{says}.", "")
    imports = [*(["from re import search"] if given["layered"] else []), "from typing import Any"]
    imports += ["from fnmatch import fnmatchcase"] if named else []
    config = with_regions(template("project/support/config.py"), regions).replace(_ABSENT, _checks(kinds, extras))
    if "fp16" in regions:
        config = config.replace(_PRECISIONS, _PRECISIONS.replace(")", ', "fp16")'))
    config = config.replace(_LOGS, f"some_of({commas(literal(kind).code for kind in train.log)})")
    files = {"optimizers.py": assembled(head, imports, body), "config.py": config}
    more = [
        *(["rollouts.py"] if "rollouts" in regions else []),
        *(f"{extra}.py" for extra in Optimizer.EXTRAS if extra in extras),
        *(["ema.py", "reconstruct.py"] if "power" in regions else []),
        *(f"{region}.py" for region in ("batch_norm", "weight_norm") if region in regions),
    ]
    files |= {name: template(f"project/support/{name}") for name in more}
    return {"train.py": with_regions(template("project/train.py"), regions), **in_support(files)}


def _regions(train: Train, module: Module | None) -> set[str]:
    """The regions of config.py and train.py that this project has."""
    ops = {node.op for _, node in walk(module)} if module is not None else set()
    warm = "warm" if isinstance(train.ema, WarmEma) else "fixed"
    ema = ("power",) if isinstance(train.ema, PowerEma) else ("single", warm)
    return {
        *ema,
        "fp16" if train.precision == "fp16" else "brain",
        *(["evaluated"] if evaluates(train) else []),
        *(["logged", *train.log] if train.log else []),
        *(["decay"] if train.schedule.decay_from is not None else []),
        *(["forced"] if "forced_norm" in ops else []),
        *({"batch_norm", "weight_norm"} & ops),
    }


def evaluates(train: Train) -> bool:
    """True if the spec asks for sample metrics during training: projects of others have no code for these."""
    return train.evaluate_every is not None or train.evaluate_features is not None


def optimizer_settings(train: Train) -> dict[str, Any]:
    """The settings of the optimisers, as config.yaml holds them: without those of `OPTIONAL` that none uses."""
    left_out = {*Optimizer.OPTIONAL} - _extras(train)
    return {
        "optimizer": train.optimizer.model_dump(mode="json", exclude=left_out),
        "optimizers": {name: o.model_dump(mode="json", exclude=left_out) for name, o in train.optimizers.items()},
    }


def _chosen(train: Train) -> list[Optimizer]:
    return [o for o in (train.optimizer, *train.optimizers.values()) if isinstance(o, Optimizer)]


def _extras(train: Train) -> set[str]:
    return {extra for optimizer in _chosen(train) for extra in optimizer.extras}


def _construction(kinds: Mapping[str, type[Optimizer]]) -> str:
    """The statement that makes the optimiser `made`."""
    if len(kinds) == 1:
        (kind,) = kinds.values()
        return "\n".join(layout("    ", f"made = {kind.TORCH}"))
    lines = ['    match settings["kind"]:']
    for name, kind in kinds.items():
        lines += [f"        case {literal(name).code}:", *layout(" " * 12, f"made = {kind.TORCH}")]
    return "\n".join(lines)


def _checks(kinds: Mapping[str, type[Optimizer]], extras: set[str]) -> str:
    """The table of config.py: of each kind its settings, what they take, and what they mean."""
    rows, left_out = [], {"kind", *Optimizer.OPTIONAL} - extras
    for name, kind in kinds.items():
        schema = kind.model_json_schema()["properties"]
        settings = {
            key: f"({_rule(own)}, {literal(own.get('description', '')).code})"
            for key, own in schema.items()
            if key not in left_out
        }
        inner = commas(f"{literal(key).code}: {text}" for key, text in settings.items())
        rows.append(f"{literal(name).code}: {{{inner}}}")
    return "\n".join(layout("", f"{_ABSENT.split(' = ')[0]} = {{{commas(rows)}}}")) + "\n"


def _rule(schema: Mapping[str, Any]) -> str:
    """The expression in config.py that tests a value of a JSON Schema."""
    if "anyOf" in schema:
        (own,) = (choice for choice in schema["anyOf"] if choice["type"] != "null")
        return f"or_null({_rule(own)})"
    if "enum" in schema:
        return f"one_of({commas(literal(word).code for word in schema['enum'])})"
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    match schema["type"]:
        case "boolean":
            return "FLAG"
        case "integer":
            return f"whole({least})"
        case "array" if "items" in schema:
            return "PATTERNS"
        case "array":
            return f"several({len(schema['prefixItems'])}, {_rule(schema['prefixItems'][0])})"
    limits = [] if least is None else [str(least)]
    return f"number({commas(limits if most is None else [*limits, f'most={most}'])})"
