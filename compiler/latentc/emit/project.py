"""The training project of a lowered spec: a folder of plain Python that needs no latentc."""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from safetensors.numpy import save

from latentc import __version__
from latentc.components.backbone import Backbone
from latentc.components.condition import searches
from latentc.components.contract import CLUSTERED, Lowered, Rollout, Update
from latentc.components.fields import FIRST_STAGE, Medium
from latentc.components.objective import Objective
from latentc.components.read_fields import encoded_fields, fields_of_project
from latentc.diagnostics import DiagnosticError, mend_of_writing
from latentc.emit.data import PLAIN, data_files, data_regions, shared_source
from latentc.emit.functions import Functions, networks_called
from latentc.emit.helpers import helper_source
from latentc.emit.inputs import draw_imports, inputs_function
from latentc.emit.model import ModelFile, assembled, in_support, model_file, networks_file
from latentc.emit.optimizers import evaluates, optimizer_settings, training_files, training_regions
from latentc.emit.reach import reached_only
from latentc.emit.text import call, commas, docstring, identifier, layout, literal
from latentc.emit.updates import update_class
from latentc.files.shipped import shipped_specs
from latentc.files.templates import rendered, template, with_regions
from latentc.ir.core import Function, Module, callees, parameters, walk
from latentc.ir.types import Sym
from latentc.spec.load import data_from_spec, first_stage_path
from latentc.spec.write import yaml_from_data
from latentc_runtime.distributions import DISTRIBUTIONS
from latentc_runtime.media import FORMATS
from latentc_runtime.sources import Condition, needed

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

NAMES = "class_names.txt"
SPEC = "spec.yaml"
MARK = ".latentc-project"  # marks a folder as an emitted project, which may be overwritten
_COPIED = ("sample.py", "ruff.toml")
_EMITTED = ("model.py", "objective.py", "sampler.py", "schedule.py")
_SUPPORT = (
    *("__init__.py", "parallel.py", "rounds.py", "checkpoint.py", "changes.py", "sharded.py", "storage.py"),
    *("data.py", "evaluate.py", "logs.py", "plain_errors.py", "progress.py"),
)
_LOG_PACKAGES = {"tensorboard": "tensorboard>=2.16", "wandb": "wandb>=0.18", "mlflow": "mlflow-skinny>=2.20"}
SHARED = ("noise", "rare_distributions", "sources", "class_names", "request_checks", "conditions")
"""Modules of the runtime that compute a sampler's inputs; projects have copies of them."""


def project_from_lowered(lowered: Lowered, spec: Spec, folder: str | Path, force: bool = False) -> list[Path]:
    """Writes the project into `folder` and returns its files.

    Files are written to a temporary folder beside it first, so a new project is never visible half-written. In an
    existing project each file is replaced, and other files (runs) stay. Raises DiagnosticError: E0510 if `folder` holds
    files that are not a project of ours, unless `force`; E0511 if the system refuses to write.
    """
    target = Path(folder)
    _refuse_foreign(target, force)
    files = project_files(lowered, spec)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
            staged = Path(beside, "project")
            staged.mkdir()
            for name, content in files.items():
                (staged / name).parent.mkdir(exist_ok=True)
                (staged / name).write_bytes(as_bytes(content))
            if not target.exists():
                staged.replace(target)
            else:
                for name in files:
                    (target / name).parent.mkdir(exist_ok=True)
                    (staged / name).replace(target / name)
    except OSError as error:
        message = f"the project cannot be written to {target}: {error.strerror or error}"
        raise DiagnosticError.of("E0511", message, help=mend_of_writing(error)) from None
    return [target / name for name in files]


def as_bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _refuse_foreign(target: Path, force: bool) -> None:
    if target.is_file():
        raise DiagnosticError.of("E0510", f"{target} is a file", help="name a folder")
    if force or not target.is_dir() or (target / MARK).is_file() or not any(target.iterdir()):
        return
    raise DiagnosticError.of(
        "E0510",
        f"{target} holds files that latentc did not write",
        help="name another folder, or overwrite with --force",
    )


def project_files(lowered: Lowered, spec: Spec) -> dict[str, str | bytes]:
    """{path in the project: content} of its files: those to read and change at the top, the others in one package."""
    stage = lowered.networks.get(FIRST_STAGE)
    lowered = replace(lowered, networks={n: net for n, net in lowered.networks.items() if n != FIRST_STAGE})
    title = f"{spec.name}{f': {spec.source}' if spec.source else ''}"
    model = model_file(lowered, title)
    files: dict[str, str | bytes] = {"model.py": model.text}
    support = dict[str, str | bytes]()
    constants, classes = dict(model.constants), [model.classes]
    if stage is not None:
        decoder = networks_file(lowered.module, {FIRST_STAGE: stage.functions}, "The autoencoder of the first stage.")
        support["autoencoder.py"] = decoder.text
        constants |= decoder.constants
        classes.append(decoder.classes)
    functions = Functions(lowered.module, classes)
    files["objective.py"] = objective_source(lowered, functions)
    files["sampler.py"] = sampler_source(lowered, functions)
    if schedule := functions.schedules.source():
        files["schedule.py"] = schedule
    constants |= functions.constants
    texts = re.sub(r"\s", "", "".join(str(text) for text in (*files.values(), *support.values())))
    codes = {name: literal(name).code for name in constants}  # some that were written as formulas are in no text
    constants = {
        n: constants[n] for n, code in codes.items() if f"table({code}" in texts or f"CONSTANTS[{code}]" in texts
    }
    if constants:
        # `save` writes an array's memory as it is laid out.
        support["constants.safetensors"] = save({name: np.ascontiguousarray(a) for name, a in constants.items()})
        support["constants.py"] = template("project/support/constants.py")
    files |= {name: template(f"project/{name}") for name in _COPIED}
    support |= {name: template(f"project/support/{name}") for name in _SUPPORT}
    if cleaned_as(spec):
        support["cleaning.py"] = shared_source("latentc_runtime.cleaning")
    medium = _written_medium(lowered, spec, stage is not None)
    support |= data_files(spec.data, stage is not None, bool(searched(spec)), medium)
    shared = _shared(lowered, spec, list(support.values()))
    support |= {f"{name}.py": shared_source(f"latentc_runtime.{name}") for name in shared}
    if CLUSTERED in lowered.module.entries:
        support["clusters.py"] = template("project/support/clusters.py")
    if encoded_fields(spec):
        support["features.py"] = template("project/support/features.py")
    if isinstance(names := spec.data.class_names, tuple):
        support[NAMES] = "".join(f"{name}\n" for name in names)
    support[SPEC] = _spec_text(spec)
    files |= in_support(support)
    config = {**config_of(spec, lowered.updates), "model": offered_sizes(model, spec)}
    rolls_out = any(update.rollout for update in lowered.updates)
    grown = any("grids" in role for role in config.get("roles", {}).values())
    regions = training_regions(spec.train, lowered.module, rolls_out, grown, fields_used(lowered))
    regions |= _regions(lowered, spec, config, "schedule.py" in files) | data_regions(spec.data, stage is not None)
    regions |= set() if medium in PLAIN else {"pictured"}
    regions |= {"encoded"} if {"encoded", "neighbours"} & {*config} else set()
    regions |= {"reread" if _rereads_rows(lowered, str(files["sampler.py"])) else "in_turn"}
    files |= training_files(spec.train, regions=regions)
    for name in [name for name in files if name.endswith(".py") and name not in _EMITTED]:
        files[name] = with_regions(str(files[name]), regions)
    files["config.yaml"] = yaml.safe_dump(
        config, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    facts = _facts(lowered, spec, config, medium) | {
        "has_schedule": "schedule.py" in files,
        "asks": "conditions" in regions,
    }
    files |= {name: rendered(f"project/{name}", facts, trim=False) for name in ("README.md", "requirements.txt")}
    files |= _reached(files, spec.data.kind, {"SETTINGS": _described(config)})
    files[MARK] = f"Written by latentc {facts['version']}; `latentc emit` replaces the files it wrote.\n"
    return files


def _written_medium(lowered: Lowered, spec: Spec, staged: bool) -> Medium:
    """The medium of what the default program makes. `staged`: the project includes the first stage, which decodes."""
    if lowered.programs and not lowered.programs[0].draws_data:
        return "array"
    if staged:
        return "image" if spec.first_stage is None else spec.first_stage.data.modelled.medium
    return spec.data.modelled.medium


def _spec_text(spec: Spec) -> str:
    """The spec as `latentc push` reads it from the project: class names and first stage are files of the project."""
    data = data_from_spec(spec.model_copy(update={"checkpoints": {}}))
    stage, names = spec.data.first_stage, spec.data.class_names
    if stage is not None:
        section = data["data"]["first_stage"]
        if stage.spec not in shipped_specs():
            section["spec"] = str(first_stage_path(spec, stage).resolve())
        if stage.weights is not None:
            section |= {"weights": f"../{FIRST_STAGE}.safetensors", "names": None, "key": None}
    for section in (data["data"], *data["data"]["fields"].values()):
        if isinstance(names, tuple) and section.get("class_names") == list(names):
            section["class_names"] = NAMES
    return yaml_from_data(data)


def _regions(lowered: Lowered, spec: Spec, config: Mapping[str, Any], scheduled: bool) -> set[str]:
    """The regions of templates and shared modules that a project has, as far as they depend on its networks and data.

    `scheduled`: schedule.py computes the steps of its samplers.
    """
    own = lowered.conditions
    conditions = len(own) > 1 or any(c.form != "label" or c.encoding != "index" or not c.required for c in own)
    related = any(setting.above is not None for program in lowered.programs for setting in program.settings)
    staged = any(
        FIRST_STAGE in networks_called(lowered.module, lowered.module.entries[program.entry])
        for program in lowered.programs
    )
    module = lowered.module
    functions = [fn for net in lowered.networks.values() for fn in net.functions]
    weights = [p for fn in functions for p in parameters(module, fn).values() if p.kind == "weight"]
    return {
        "methods" if _calls_methods(module) else "forward",
        "scalars" if any(not p.type.shape for p in weights) else "dimensions",
        "forward_derivatives" if any(node.op == "jvp" for _, node in walk(module)) else "values",
        "conditions" if conditions or related or searched(spec) else "classes",
        "roles" if "roles" in config else "plain",
        "rounds" if "rounds" in config else "once",
        "schedule" if scheduled else "tables",
        "staged" if staged else "direct",
        "sampled" if lowered.programs else "unsampled",
        "previewed" if lowered.programs and lowered.programs[0].draws_data else "unseen",
        "clustered" if CLUSTERED in lowered.module.entries else "labelled",
        *(["rows"] if any(program.chunk is not None for program in lowered.programs) else []),
    }


def _rereads_rows(lowered: Lowered, text: str) -> bool:
    """True if functions in the text of sampler.py do more with per-step inputs than run over their rows once."""
    inputs = [entry for program in lowered.programs for entry in program.inputs(lowered.module)]
    names = {identifier(entry.name) for entry in inputs if entry.rows is not None}
    for fn in (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)):
        calls = [n for loop in fn.body if isinstance(loop, ast.For) for n in ast.walk(loop.iter)]
        zips = [n for n in calls if isinstance(n, ast.Call) and ast.unparse(n.func) == "zip"]
        in_turn = {arg.id for call in zips for arg in call.args if isinstance(arg, ast.Name)}
        read = [n.id for n in ast.walk(fn) if isinstance(n, ast.Name) and n.id in names]
        if sorted(read) != sorted(in_turn & names):
            return True
    return False


def _calls_methods(module: Module) -> bool:
    """True if methods other than `forward` of networks in training, or of modules in these, are called."""
    called = (fn for _, node in walk(module) if node.attrs.get("name") != FIRST_STAGE for fn in callees(node))
    origins = (module.functions[fn].origin for fn in called)
    return any(origin is not None and origin.method != "forward" for origin in origins)


def _described(config: Mapping[str, Any], path: str = "") -> set[str]:
    """The paths of the settings in config.yaml, and those of roles for whatever network has one."""
    found = {path.removesuffix("."), re.sub(r"^roles\.\w+", "roles.*", path).removesuffix(".")}
    return found.union(*(_described(v if isinstance(v, Mapping) else {}, f"{path}{k}.") for k, v in config.items()))


def _reached(files: dict[str, str | bytes], kind: str, rows: Mapping[str, Collection[str]]) -> dict[str, str | bytes]:
    """Removes the modules from `files`; returns those that a script loads, with the definitions that it reaches."""
    modules = {path: str(files.pop(path)) for path in [*files] if path.endswith(".py")}
    scripts = ["train.py", "sample.py", *in_support({"data.py": "", "reconstruct.py": ""})]
    whole = [*_EMITTED, *in_support({"autoencoder.py": ""})]
    return dict(reached_only(modules, scripts, whole, [kind], rows))


def _shared(lowered: Lowered, spec: Spec, files: Iterable[str | bytes]) -> tuple[str, ...]:
    """Modules of the runtime of which this project has copies: those of arrays and texts only if it has such inputs.

    `files` are the other modules, some of which import `texts`.
    """
    arrays = any(condition.form != "label" for condition in lowered.conditions) or bool(searched(spec))
    texts = any(condition.medium == "text" for condition in lowered.conditions)
    texts |= any(field.medium == "text" for field in spec.data.fields.values())
    texts |= any(isinstance(text, str) and "\nfrom .texts import" in text for text in files)
    rows = any(program.chunk is not None for program in lowered.programs)
    asked = {"condition_arrays": arrays, "texts": texts, "chunks": rows}
    return (*SHARED, *(name for name, needed in asked.items() if needed))


def offered_sizes(model: ModelFile, spec: Spec) -> dict[str, dict[str, int]]:
    """{network: sizes in config.yaml}: those that can change by themselves; `build` in model.py has the others."""

    def fixed(name: str) -> tuple[str, ...]:
        network = spec.networks[name]
        assert isinstance(network, Backbone)
        source = network.average_of or network.same_as
        return fixed(source) if source else network.fixed

    return {
        name: {size: value for size, value in sizes.items() if size not in fixed(name)}
        for name, sizes in model.offered.items()
    }


def config_of(spec: Spec, updates: Sequence[Update] = ()) -> dict[str, Any]:
    """The settings of training and data, as config.yaml holds them, without fields that only requests pass."""
    read = fields_of_project(spec, updates)
    data, stage = spec.data.settings(read), spec.first_stage
    if stage is not None and spec.first_stage_fits:
        data["first_stage"] |= {
            "weights": f"{FIRST_STAGE}.safetensors",
            "field": stage.data.settings()["fields"]["x"],
        }
    unseen, seen = spec.data.held_out().settings(read), spec.data.settings(read)
    held_out = {key: value for key, value in unseen.items() if seen[key] != value}
    train = spec.train.model_dump(mode="json", by_alias=True)
    train |= optimizer_settings(spec.train)
    if not train["optimizers"]:
        del train["optimizers"]
    if not train["log"]:
        del train["log"]
    if train["precision"] != "fp16":
        del train["loss_scaling"]
    if not evaluates(spec.train):
        train = {name: value for name, value in train.items() if not name.startswith("evaluate_")}
    if train["schedule"]["decay_from"] is None:
        del train["schedule"]["decay_from"]
    roles = {name: role for name, network in spec.networks.items() if (role := _role(network, spec))}
    rounds = spec.objective.in_rounds if isinstance(spec.objective, Objective) else None
    rewards = spec.objective.reward_settings if isinstance(spec.objective, Objective) else ()
    clusters = _clusters(spec)
    if clusters:  # no label is read
        data |= {"classes": 0, "fields": {name: field for name, field in data["fields"].items() if name != "y"}}
    return {
        "name": spec.name,
        "train": {"out": "runs/train", "resume": False, "deterministic": False, **train},
        **({"roles": roles} if roles else {}),
        **({"rounds": asdict(rounds)} if rounds else {}),
        **({"rewards": list(rewards)} if rewards else {}),
        **({"clusters": clusters} if clusters else {}),
        "data": data,
        **({"held_out": held_out} if held_out else {}),
        **({"encoded": {n: of.settings() for n, of in encoded.items()}} if (encoded := encoded_fields(spec)) else {}),
        **({"neighbours": neighbours} if (neighbours := searched(spec)) else {}),
    }


def _clusters(spec: Spec) -> dict[str, Any]:
    """The settings of clusters that are labels; empty if labels are read."""
    how = spec.objective.clustering if isinstance(spec.objective, Objective) else None
    return {} if how is None else {"count": spec.data.classes, **asdict(how)}


def searched(spec: Spec) -> dict[str, dict[str, Any]]:
    """{condition: what training searches for it in a database}."""
    found = {name: asdict(search) for name, search in searches(spec).items()}
    return {name: {k: v for k, v in given.items() if k != "queries"} for name, given in found.items()}


def _role(network: Any, spec: Spec) -> dict[str, Any]:
    """A network's role in training; empty for one that is initialised at random and trained."""
    role = {key: value for key in ("copy_of", "pretrained") if (value := getattr(network, key))}
    if network.pretrained and network.same_as:
        role["like"] = network.same_as
    if role and network.fresh_weights:
        role["fresh_weights"] = list(network.fresh_weights)
    if network.frozen_weights and network.trainable:
        role["frozen_weights"] = list(network.frozen_weights)
    if (source := network.average_of) is not None:
        role |= {"average_of": source, "decay": network.decay}
        grids = spec.objective.growing(spec) if network.by_grids and isinstance(spec.objective, Objective) else None
        return role if grids is None else {**role, "grids": asdict(grids)}
    return role if network.trainable else {**role, "frozen": True}


def _taken(lowered: Lowered) -> list[Condition]:
    """The conditions that a request to the first program may give."""
    inputs = [one for program in lowered.programs[:1] for one in program.inputs(lowered.module)]
    names, _ = needed(inputs)
    return [c for c in lowered.conditions if c.name in names]


def _facts(lowered: Lowered, spec: Spec, config: Mapping[str, Any], medium: Medium) -> dict[str, Any]:
    methods = [net.functions[0] for net in lowered.networks.values()]
    weights = [p for method in methods for p in parameters(lowered.module, method).values() if p.kind == "weight"]
    data = config["data"]
    taken, pictured = _taken(lowered), medium not in PLAIN
    return {
        "name": spec.name,
        "source": spec.source,
        "version": __version__,
        "networks": list(lowered.networks),
        "parameters": f"{sum(p.type.count() for p in weights):,}",
        "has_sampler": bool(lowered.programs),
        "first_stage": data.get("first_stage") if spec.first_stage_fits else None,
        "requires": dict.fromkeys(
            (
                *(_LOG_PACKAGES[kind] for kind in spec.train.log if kind in _LOG_PACKAGES),
                *(["pillow>=10"] if pictured and {*spec.train.log} & {*_LOG_PACKAGES} else []),
                *spec.data.requires,
                *(["usearch>=2.16"] if searched(spec) else []),
                *(["scikit-learn>=1.4"] if "clusters" in config else []),
                *(["tokenizers>=0.20"] if any(field.tokenizer for field in spec.data.fields.values()) else []),
                *(["ftfy>=6.1"] if "captions" in cleaned_as(spec) else []),
            )
        ),
        "classes": next((c.classes for c in taken if c.form == "label"), None),
        "given": [c.name for c in taken if c.required and c.form != "label" and not c.retrieved],
        "searches": bool(searched(spec)),
        "encodes": bool(encoded_fields(spec)),
        "evaluates": evaluates(spec.train),
        "clusters": "clusters" in config,
        "logs": [*spec.train.log],
        "grids": pictured,
        "rolls_out": any(update.rollout for update in lowered.updates),
        "out": config["train"]["out"],
        "samples": f"samples{next(iter(FORMATS[medium]))}",
    }


def cleaned_as(spec: Spec) -> set[str]:
    """How texts are cleaned before they become tokens."""
    return {field.cleaning for field in spec.data.fields.values() if field.cleaning is not None}


# ---- objective.py


def objective_source(lowered: Lowered, functions: Functions) -> str:
    """Text of `objective.py`: each loss, its random inputs, and the updates of a training step in order."""
    functions.begin_file()
    parts: list[str] = []
    listing: list[str] = []
    steps: list[str] = []
    used: dict[str, None] = {}
    for update in lowered.updates:
        prefix = f"{update.name}_" if update.name else ""
        entry = lowered.module.entries[update.loss]
        loss = functions.add(entry, f"{prefix}loss")
        parts.append(_draws(update, lowered.module.functions[entry], f"{prefix}draws"))
        words = [loss, *(literal(v).code for v in (tuple(functions.networks(entry)), update.networks, update.batch))]
        words += [f"{prefix}draws", literal(update.metrics or ("loss",)).code]
        fields = _fields_of(update, lowered.module, entry)
        used |= dict.fromkeys(fields)
        words += [f"{name}={literal(value).code}" for name, value in fields.items()]
        made = call("Update", words).code
        if update.name:
            listing += layout("", f"{identifier(update.name.upper())} = {made}")
        steps += [identifier(update.name.upper()) if update.name else made] * update.repeats
    if (features := lowered.module.entries.get(CLUSTERED)) is not None:
        functions.add(features, "clustered_features")
    listing += layout("", f"UPDATES = ({commas(steps)}{',' if len(steps) == 1 else ''})")
    rollouts = [update.rollout for update in lowered.updates if update.rollout is not None]
    listing += [line for rollout in rollouts for line in layout("", f"ROLLOUT = {_rollout(rollout)}")]
    defined = [update_class(used), *_helpers(functions, *(["Rollout"] if rollouts else []))]
    body = "\n\n".join([*defined, *functions.texts, *parts, "\n".join(listing) + "\n"])
    head = docstring("The losses, their random inputs, and the networks that each update trains.", "")
    before = ["from collections.abc import Callable", "from dataclasses import dataclass"]
    before += ["from typing import Any"] if re.search(r"\bAny\b", body) else []
    return assembled(head, before, body)


def fields_used(lowered: Lowered) -> set[str]:
    """The optional fields that some update in objective.py has."""
    entries = lowered.module.entries
    return {name for u in lowered.updates for name in _fields_of(u, lowered.module, entries[u.loss])}


def _fields_of(update: Update, module: Module, entry: str) -> dict[str, Any]:
    """The optional fields of an update in objective.py that do not have their defaults."""
    inputs = [v.name for v in module.functions[entry].inputs]
    renamed = tuple((name, identifier(name)) for name in inputs if identifier(name) != name)
    fields = {
        "renamed": renamed,
        "takes_round": "round" in inputs,
        "takes_step": "training_step" in inputs,
        "start": update.start,
        "every": update.every if update.every > 1 else None,
        "span": update.span if update.span > 1 else None,
        "rests": update.rests,
        "reference": update.reference if update.reference > 1 else None,
        "climbs": update.climbs,
        "differentiates": _differentiates(module, entry),
        "partial": update.partial or _leaves_out(module, entry),
    }
    return {name: value for name, value in fields.items() if value}


def _differentiates(module: Module, function: str) -> bool:
    """True if a free function, or one it calls, differentiates a network with respect to its inputs."""
    return any(
        node.op == "gradient"
        or any(module.functions[c].origin is None and _differentiates(module, c) for c in callees(node))
        for node in module.functions[function].nodes
    )


def _leaves_out(module: Module, function: str) -> bool:
    """True if a free function, or one it calls, leaves an output of a network unused."""
    fn = module.functions[function]
    used = {v for node in fn.nodes for v in node.inputs} | set(fn.outputs)
    for node in fn.nodes:
        for callee in callees(node):
            free = module.functions[callee].origin is None
            if _leaves_out(module, callee) if free else node.op == "call" and not used.issuperset(node.outputs):
                return True
    return False


def _rollout(rollout: Rollout) -> str:
    """The constructor call of what `objective.py` says of rollouts."""
    given: dict[str, tuple[str, ...]] = {}
    for (name, _), field in rollout.given.items():
        given[name] = (*given.get(name, ()), field)
    words = (rollout.program, rollout.group, rollout.gives, given)
    return call("Rollout", [literal(word) for word in words]).code


def _helpers(functions: Functions, *records: str) -> list[str]:
    """Definitions of the dataclasses `records` and of the helpers that the functions of this file call."""
    defined = [helper_source(records)] if records else []
    return [*defined, *([helper_source(functions.helpers)] if functions.helpers else [])]


def _draws(update: Update, loss: Function, name: str) -> str:
    types = {v.name: v.type for v in loss.inputs}
    multiple, reference = int(update.batch_multiple), int(update.reference)
    count = "`size`" if multiple == 1 else f"{multiple} * `size`"
    count = count if reference == 1 else f"`size` // {reference}"
    lines = [
        f"def {name}(size: int, generator: torch.Generator) -> dict[str, Tensor]:",
        f'    """The random inputs of a loss for {count} samples, on the CPU."""',
        *([f"    size *= {multiple}"] if multiple > 1 else []),
        *([f"    size //= {reference}"] if reference > 1 else []),
        "    return {",
    ]
    for d in update.draws:
        shape = commas("size" if isinstance(size, Sym) else str(int(size)) for size in types[d.name].shape)
        parameters = {name: literal(value).code for name, value in d.parameters.items()}
        text = DISTRIBUTIONS[d.distribution].torch.format(shape=shape, **parameters)
        lines += [*layout(" " * 8, f"{literal(d.name).code}: {text}", reserve=1)]
        lines[-1] += ","
    return "\n".join([*lines, "    }"]) + "\n"


# ---- sampler.py


def sampler_source(lowered: Lowered, functions: Functions) -> str:
    """Text of `sampler.py`: functions of each program and of its inputs, and PROGRAMS {name: {steps: Sampler}}."""
    inputs = {program.entry: program.inputs(lowered.module) for program in lowered.programs}
    chunks = {program.name: program.chunk for program in lowered.programs if program.chunk is not None}
    drawing = draw_imports(entry for entries in inputs.values() for entry in entries)
    if chunks:
        grids = {"Grid"} if any(chunk.grid is not None for chunk in chunks.values()) else set()
        drawing["chunks"] = {"Chunk", *grids}
    functions.begin_file(name for names in drawing.values() for name in names)
    programs = dict[str, list[str]]()
    for program in lowered.programs:
        entry = lowered.module.entries[program.entry]
        name = f"{identifier(program.name)}_{program.steps}"
        script = program.schedule() if program.schedule is not None else None
        title = lowered.module.functions[entry].doc
        plan = functions.schedules.add(name, script, lowered.module, entry, title) if script is not None else None
        name = functions.add(entry, name, progress=True, plan=plan)
        settable = plan is not None and plan.settable
        functions.texts.append(inputs_function(name, inputs[program.entry], settable))
        words = [name, literal(tuple(functions.networks(entry))).code, f"{name}_inputs"]
        read = zip(("conditions", "settings"), needed(inputs[program.entry]), strict=True)
        words += [f"{part}={literal(names).code}" for part, names in read if names]
        if program.outputs:
            words.append(f"outputs={literal(tuple(o.name for o in program.outputs)).code}")
        if plan is not None and settable:
            words.append(f"schedule=schedule.{plan.name}")
        programs.setdefault(program.name, []).append(f"{int(program.steps)}: Sampler({commas(words)})")
    settings = {s.name: s for program in lowered.programs for s in program.settings}
    conditions = tuple(
        replace(c, names=(), queries=()) for c in lowered.conditions
    )  # sample.py reads names from a file
    listing = layout("", f"CONDITIONS: tuple[Condition, ...] = {_code(conditions)}")
    listing += layout("", f"SETTINGS: tuple[Setting, ...] = {_code(tuple(settings.values()))}")
    if chunks:
        rows = [f"{literal(name).code}: {_code(chunk)}" for name, chunk in chunks.items()]
        listing += layout("", f"CHUNKS: dict[str, Chunk] = {{{commas(rows)}}}")
    held = [f"{literal(name).code}: {{{commas(rows)}}}" for name, rows in programs.items()]
    listing += layout("", f"PROGRAMS: dict[str, dict[int, Sampler]] = {{{commas(held)}}}")
    body = "\n\n".join([*_helpers(functions, "Sampler"), *functions.texts, "\n".join(listing) + "\n"])
    head = docstring("The sampler: from noise to samples, guidance included.", "")
    before = ["from collections.abc import Callable", "from dataclasses import dataclass", "from typing import Any"]
    return assembled(head, before, body, drawing)


def _code(value: Any) -> str:
    """The constructor call of a dataclass of the runtime, without arguments that have their defaults."""
    if isinstance(value, tuple):
        return f"({commas(map(_code, value))}{',' if len(value) == 1 else ''})"
    if not is_dataclass(value):
        return literal(value).code
    words = []
    for one in fields(value):
        own = getattr(value, one.name)
        if one.default is MISSING and one.default_factory is MISSING:
            words.append(_code(own))
        elif own != (one.default if one.default_factory is MISSING else one.default_factory()):
            words.append(f"{one.name}={_code(own)}")
    return f"{type(value).__name__}({commas(words)})"
