"""Writes a spec and its weights as a folder of diffusers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentc.checkpoint import check_complete, check_inverse, name_map, network_types, symbols
from latentc.components.backbone import Backbone
from latentc.components.condition import encoders
from latentc.components.contract import Lowered
from latentc.components.fields import FIRST_STAGE
from latentc.components.samplers.base import ArraySampler, parameterization_of
from latentc.diagnostics import DiagnosticError
from latentc.export.folder import new_folder
from latentc.interchange.diffusers import (
    EVERY_MODEL,
    FIRST_STAGES,
    SCHEDULERS,
    USUAL,
    Data,
    Model,
    Scheduler,
    Unequal,
    asked,
)
from latentc.interchange.folders import CONFIG, INDEX, PIPELINES, SCHEDULER_CONFIG, Pipeline, merged
from latentc.interchange.imported import MARKER, check_free
from latentc.lower import lower
from latentc.spec import Spec, data_from_spec, spec_from_text
from latentc.spec.write import yaml_from_data
from latentc.weights import Expr, export_weights, write_safetensors

VERSION = "0.35.0"
"""The oldest release of diffusers that has these classes and keys."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
_TRAINING = ("dropout", "weights", "copy_of", "pretrained", "fresh_weights", "frozen", "frozen_weights", "conditions")
"""Fields of networks and conditions that only training reads."""


@dataclass(frozen=True)
class Exported:
    """A written export: the pipeline (None: models alone), its files, and what differs in diffusers."""

    folder: Path
    pipeline: str | None
    files: tuple[str, ...]
    notes: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {**asdict(self), "folder": str(self.folder)}


@dataclass(frozen=True)
class Part:
    """A network of a spec as a model of diffusers."""

    model: Model
    config: Data
    spec: Spec
    tensors: Mapping[str, Expr]

    @property
    def name(self) -> str:
        return self.model.NAMES[0]


def export_diffusers(
    spec: Spec,
    weights: Mapping[str, Mapping[str, Expr]],
    folder: Path,
    force: bool = False,
    notes: Sequence[str] = (),
) -> Exported:
    """Write a spec as a folder of diffusers, from the weights of its networks (and of its first stage).

    A class-conditional DiT with a first stage becomes a `DiTPipeline`, a U-Net without conditions a `DDPMPipeline` or,
    with a first stage, an `LDMPipeline`, a consistency model a `ConsistencyModelPipeline`, others a model alone with
    its scheduler. `force` replaces an earlier export; `notes` are the first of the result's.
    Raises DiagnosticError: E0418 for a network without an equal, E0501, E0502.
    """
    check_free(folder, force)
    notes = list(notes)
    encoding = {network for name, part in spec.conditions.items() for network in encoders(name, part, spec)}
    networks = [name for name in weights if name != FIRST_STAGE and name not in encoding]
    if networks != ["main"]:
        raise _unequal(spec, f"it samples with the networks {', '.join(networks)}, not with `main` alone")
    main = _part(spec, weights["main"], notes)
    stage = None
    if FIRST_STAGE in weights and spec.first_stage is not None and spec.data.first_stage is not None:
        stage = _part(spec.first_stage, weights[FIRST_STAGE], notes, FIRST_STAGES.values())
        shift, scale = spec.data.normalisation
        shifts = any(pipeline.shifts for pipeline in PIPELINES.values() if pipeline.model == main.name)
        if (any(shift) and not shifts) or len(set(shift)) > 1 or len(set(scale)) > 1:
            raise _unequal(spec, "its latents are normalised per channel, but diffusers divides them by one factor")
        stage.config["scaling_factor"] = scale[0]
        if shifts:
            stage.config["shift_factor"] = shift[0]
    pipeline = _pipeline(spec, main, stage, notes)
    if spec.data.class_names and _taken(spec) and (pipeline is None or pipeline[1].null_class is None):
        notes.append("the names of the classes are left out: only a DiTPipeline has them")
    even = any(one.even for one in PIPELINES.values() if one.model == main.name)
    scheduler = _scheduler(spec, pipeline, even, notes) if main.model.SCHEDULED else None
    places = _places(main, stage, pipeline)
    with new_folder(folder, "export", MARKER) as temporary:
        contents = dict(_files(spec, places, scheduler, pipeline))
        for name, content in contents.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        files = list(contents)
        for place, part in places:
            write_safetensors(temporary / place / WEIGHTS, _named(part), {"format": "pt"})
            files.append(f"{place}/{WEIGHTS}" if place else WEIGHTS)
        about = {"exported_from": spec.name, "notes": notes}
        (temporary / MARKER).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return Exported(folder, None if pipeline is None else pipeline[0], tuple(files), tuple(notes))


def _part(spec: Spec, tensors: Mapping[str, Expr], notes: list[str], models: Iterable[Model] = EVERY_MODEL) -> Part:
    """The network `main` as a model. Raises E0418 with the reason of the class that comes nearest."""
    reasons = []
    for model in models:
        try:
            config = model.config(spec)
        except Unequal as reason:
            reasons.append((model, str(reason)))
            continue
        found = model.config_of(config)
        changes = model.changes(found)
        if found.refused:
            raise _unequal(spec, found.refused[0])
        again = spec_from_text(yaml_from_data({"latentc": 1, "name": "again", "extends": model.SPEC, **changes}))
        notes += _compared(spec, again, model)
        return Part(model, config, again, model.adapted(spec, tensors))
    other = ("its network is", "its bottleneck is")  # of another class
    own = [(model, reason) for model, reason in reasons if not reason.startswith(other)]
    if len(own) == 1:
        raise _unequal(spec, own[0][1])
    raise _unequal(spec, "; ".join(f"no {model.NAMES[0]}: {reason}" for model, reason in own or reasons))


def _compared(spec: Spec, again: Spec, model: Model) -> Iterator[str]:
    """Small differences of the model if imported again. Raises E0418 if it is another network."""
    ours, theirs = ({n: tuple(t[0]) for n, t in network_types(lower(s), "main").items()} for s in (spec, again))
    for name in model.embedding(spec):
        del ours[name]
        yield f"{name} is left out: the network is given what it embeds"
    if ours != theirs:
        odd = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
        raise _unequal(spec, f"its tensor {odd} is {ours.get(odd)}, but in {model.NAMES[0]} it is {theirs.get(odd)}")
    for path, own, other in _differences(_networks(spec), _networks(again), ()):
        if path[-1] in model.ADAPTED:
            continue
        said = f"{'.'.join(path)} is {own!r}, but in {model.NAMES[0]} it is {other!r}"
        if path[-1] not in model.NEARLY:
            raise _unequal(spec, said)
        yield f"{said}: {model.NEARLY[path[-1]]}"


def _networks(spec: Spec) -> Data:
    """The parts of a spec that say what its network computes."""
    data = data_from_spec(spec)
    found = {"backbone": data["backbone"] if "backbone" in data else data["networks"]["main"]}
    if spec.time is not None and "time" in data["conditioning"] and getattr(spec.networks["main"], "TIME", False):
        found["conditioning"] = {"time": data["conditioning"]["time"]}
    return found


def _differences(ours: Any, theirs: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, ours, theirs) of each value that differs; what only training reads is left out."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            if key not in _TRAINING:
                yield from _differences(ours.get(key), theirs.get(key), (*path, str(key)))
    elif ours != theirs:
        yield path, ours, theirs


def _scheduler(
    spec: Spec, pipeline: tuple[str, Pipeline] | None, even: bool, notes: list[str]
) -> tuple[Scheduler, Data]:
    """The spec's sampler as a scheduler, or a DDIM of the same process, with a note. Raises E0418 without a process.

    `even`: pipelines of the network lay out noise levels themselves.
    """
    sampler, nearest = spec.sampler, None
    try:
        for scheduler in dict.fromkeys(SCHEDULERS.values()):
            if not scheduler.takes(sampler):
                continue
            nearest = scheduler
            config = scheduler.config(spec)
            _same_table(spec, scheduler, config, even)
            asked(
                not scheduler.SCALES_NOISE or pipeline is None or pipeline[1].scales_noise,
                f"the pipeline does not scale the state for {scheduler.NAMES[0]}",
            )
            return scheduler, config
        asked(sampler is not None, "it has no sampler")
        assert sampler is not None
        raise Unequal(f"the sampler `{sampler.kind}` has no equivalent in diffusers")
    except Unequal as reason:
        if _jumps(spec):
            raise _unequal(spec, str(reason)) from None
        try:
            config = USUAL.config(spec.model_copy(update={"sampler": USUAL.usual(sampler)}))
        except Unequal as why:
            raise _unequal(spec, str(why if nearest is None else reason)) from None
        notes.append(f"the scheduler is a {USUAL.NAMES[0]} of the same process: {reason}")
        return USUAL, config


def _jumps(spec: Spec) -> bool:
    """Whether the network jumps to the end of a trajectory, so that no sampler of denoisers runs it."""
    target = parameterization_of(spec.objective)
    return target is not None and target.boundary is not None


def _same_table(spec: Spec, scheduler: Scheduler, config: Data, even: bool) -> None:
    """Raise Unequal unless the scheduler, imported again, has the coefficients of the spec's sampler."""
    found = scheduler.config_of(config)
    changes = scheduler.changes_in(found, 1, even)
    assert not found.refused, found.refused
    data = data_from_spec(spec)
    steps = {"steps": getattr(spec.sampler, "steps", 1)}
    objective = merged(data["objective"], changes["objective"])
    text = yaml_from_data({**data, "objective": objective, "sampler": {**changes["sampler"], **steps}})
    again = spec_from_text(text, "<exported>")
    tables = []
    for one in (spec, again):
        target = parameterization_of(one.objective)
        assert isinstance(one.sampler, ArraySampler) and target is not None
        tables.append(one.sampler.table(target))
    ours, theirs = tables
    same = ours.columns.keys() == theirs.columns.keys() and (ours.clip, ours.prior) == (theirs.clip, theirs.prior)
    if not same or any(not np.allclose(ours.columns[n], theirs.columns[n], 1e-6, 1e-9) for n in ours.columns):
        raise Unequal(f"its sampler's coefficients are not those of {scheduler.NAMES[0]}")


def _pipeline(spec: Spec, main: Part, stage: Part | None, notes: list[str]) -> tuple[str, Pipeline] | None:
    """The pipeline that the models make up; None, with a note, if no pipeline of diffusers runs them."""
    latent, taken = spec.first_stage is not None, _taken(spec)
    found = {
        name: pipeline
        for name, pipeline in PIPELINES.items()
        if pipeline.model == main.name and (pipeline.spec is not None) == _jumps(spec)
    }
    fitting = {name: pipeline for name, pipeline in found.items() if (pipeline.autoencoder is not None) == latent}
    for name, pipeline in fitting.items():
        if pipeline.autoencoder is not None and stage is None:
            break
        if not pipeline.for_texts and taken in pipeline.conditions:
            notes += _guidance(spec, name, pipeline)
            return name, pipeline
    if not main.model.SCHEDULED:
        return None
    if not found:
        notes.append(f"no pipeline of diffusers runs a {main.name}")
        return None
    name, pipeline = next(iter((fitting or found).items()))
    if pipeline.autoencoder is not None and stage is None:
        notes.append(f"no {name}, which needs an autoencoder: give its weights with -w first_stage=FILE")
    elif not fitting:
        notes.append(f"no {name}, which decodes no latents")
    elif pipeline.for_texts:
        notes.append(f"no {name}, whose text encoders are not written: pass it theirs and the parts written here")
    else:
        one, own = (" and ".join(names) or "no condition" for names in (pipeline.conditions[0], taken))
        notes.append(f"no {name}, whose network takes {one}: this one takes {own}")
    return None


def _taken(spec: Spec) -> tuple[str, ...]:
    """The conditions of the network."""
    network = spec.networks["main"]
    return tuple(network.takes(spec)) if isinstance(network, Backbone) else ()


def _guidance(spec: Spec, name: str, pipeline: Pipeline) -> Iterator[str]:
    """How a pipeline guides differently."""
    if pipeline.null_class is None:
        if isinstance(spec.sampler, ArraySampler) and spec.sampler.terms():
            yield f"{name} does not guide, but the spec's sampler does"
        return
    classes = spec.data.classes or 0
    if classes != pipeline.null_class:
        yield (
            f"{name} uses class {pipeline.null_class} for guidance, which {classes} classes do not include: call it "
            "with guidance_scale=1"
        )
    if not isinstance(spec.sampler, ArraySampler):
        return
    for _, term in spec.sampler.terms():
        channels = getattr(term, "channels", None)
        shape = spec.data.shape
        if channels is not None and shape is not None and channels != shape[0]:
            yield f"{name} guides all {shape[0]} channels, but the spec's sampler guides {channels}"
        if getattr(term, "interval", (0.0, 1.0)) != (0.0, 1.0) or getattr(term, "schedule", "constant") != "constant":
            yield f"{name} guides every step with one scale"
        yield f"{name} takes the guidance scale at each call: guidance_scale={term.scale:g}"
    if len(spec.sampler.terms()) > 1:
        yield f"{name} has one term of guidance, but the spec's sampler has {len(spec.sampler.terms())}"


def _places(main: Part, stage: Part | None, pipeline: tuple[str, Pipeline] | None) -> list[tuple[str, Part]]:
    """(folder, model): a pipeline's parts, models with a scheduler, or one model alone at the top."""
    if not main.model.SCHEDULED:
        return [("", main)]
    of = pipeline[1] if pipeline is not None else next(p for p in PIPELINES.values() if p.model == main.name)
    return [(of.network, main), *([] if stage is None else [(of.autoencoder or "vae", stage)])]


def _files(
    spec: Spec,
    places: list[tuple[str, Part]],
    scheduler: tuple[Scheduler, Data] | None,
    pipeline: tuple[str, Pipeline] | None,
) -> Iterator[tuple[str, Data]]:
    """(path, content) of the JSON files."""
    for place, part in places:
        content = {"_class_name": part.name, "_diffusers_version": VERSION, **part.config}
        yield (f"{place}/{CONFIG}" if place else CONFIG), content
    if scheduler is not None:
        kind, config = scheduler[0].NAMES[0], _without_infinities(scheduler[1])
        content = {"_class_name": kind, "_diffusers_version": VERSION, **config}
        yield f"scheduler/{SCHEDULER_CONFIG}", content
        if pipeline is not None:
            index: Data = {"_class_name": pipeline[0], "_diffusers_version": VERSION}
            names = spec.data.class_names
            if pipeline[1].null_class is not None:
                index["id2label"] = None if not names else {str(i): name for i, name in enumerate(names)}
            index["scheduler"] = ["diffusers", kind]
            yield INDEX, {**index, **{place: ["diffusers", part.name] for place, part in places}}


def _without_infinities(config: Data) -> Data:
    """JSON has no infinities; the defaults that have one are left out."""
    return {key: value for key, value in config.items() if value not in (float("inf"), float("-inf"))}


def _named(part: Part) -> dict[str, Expr]:
    """The tensors under the names of diffusers."""
    lowered: Lowered = lower(part.spec)
    rules = name_map(part.spec, "main", part.model.MAP)
    sizes = symbols(lowered, lowered.networks["main"])
    types = network_types(lowered, "main")
    check_inverse(rules, types, sizes)
    for function in lowered.networks["main"].functions:
        check_complete(lowered, function, part.tensors)
    return export_weights({name: part.tensors[name] for name in types}, rules, sizes=sizes)


def _unequal(spec: Spec, reason: str) -> DiagnosticError:
    return DiagnosticError.of("E0418", f"`{spec.name}` has no equivalent in diffusers: {reason}")
