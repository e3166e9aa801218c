"""The files of a training project that depend on its optimisers: only the kinds that the spec uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from latentc.components.optimizer import Optimizer
from latentc.emit.model import assembled
from latentc.emit.text import commas, docstring, layout, literal
from latentc.templates import rendered, template

if TYPE_CHECKING:
    from latentc.spec.sections import Train

_ABSENT = "OPTIMIZERS: dict[str, dict[str, tuple[Rule, str]]] = {}\n"  # in the template of config.py
_REGION = re.compile(r"^ *# region sam\n(.*?)^ *# endregion\n", re.MULTILINE | re.DOTALL)


def optimizer_files(train: Train) -> dict[str, str]:
    """{file name: text} of optimizers.py, config.py, train.py, and sam.py if an optimiser has a radius."""
    chosen = _chosen(train)
    kinds = {optimizer.kind: type(optimizer) for optimizer in chosen}
    sharp = any(optimizer.sam for optimizer in chosen)
    definitions = [kind.SOURCE.strip() for kind in kinds.values() if kind.SOURCE]
    body = rendered(
        "project/optimizers.py", {"construction": _construction(kinds), "definitions": definitions}, trim=False
    )
    head = docstring(
        "The optimisers of config.yaml. Biases and norms never decay, embeddings only with `decay_embeddings`.", ""
    )
    files = {
        "optimizers.py": assembled(head, ["from typing import Any"], body),
        "config.py": template("project/config.py").replace(_ABSENT, _checks(kinds, sharp)),
        "train.py": _REGION.sub(r"\1" if sharp else "", template("project/train.py")),
    }
    return files | ({"sam.py": template("project/sam.py")} if sharp else {})


def optimizer_settings(train: Train) -> dict[str, Any]:
    """The settings of the optimisers, as config.yaml holds them: without `sam` if none has a radius."""
    left_out = None if any(optimizer.sam for optimizer in _chosen(train)) else {"sam"}
    return {
        "optimizer": train.optimizer.model_dump(mode="json", exclude=left_out),
        "optimizers": {name: o.model_dump(mode="json", exclude=left_out) for name, o in train.optimizers.items()},
    }


def _chosen(train: Train) -> list[Optimizer]:
    return [o for o in (train.optimizer, *train.optimizers.values()) if isinstance(o, Optimizer)]


def _construction(kinds: Mapping[str, type[Optimizer]]) -> str:
    """The statement that makes the optimiser `made`."""
    if len(kinds) == 1:
        (kind,) = kinds.values()
        return "\n".join(layout("    ", f"made = {kind.TORCH}"))
    lines = ['    match settings["kind"]:']
    for name, kind in kinds.items():
        lines += [f"        case {literal(name).code}:", *layout(" " * 12, f"made = {kind.TORCH}")]
    return "\n".join(lines)


def _checks(kinds: Mapping[str, type[Optimizer]], sharp: bool) -> str:
    """The table of config.py: of each kind its settings, what they take, and what they mean."""
    rows, left_out = [], ("kind",) if sharp else ("kind", "sam")
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
        case "array":
            return f"several({len(schema['prefixItems'])}, {_rule(schema['prefixItems'][0])})"
    limits = [] if least is None else [str(least)]
    return f"number({commas(limits if most is None else [*limits, f'most={most}'])})"
