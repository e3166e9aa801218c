"""A bundle as a model repository of NVIDIA Triton: one model that samples, or an ensemble around the engine.

sampler   one model of the Python backend that runs the bundle with latentc_runtime
ensemble  NAME joins NAME_noise (seeds to noise), NAME_engine (the bundle's one engine) and NAME_images

Both take `seeds`, the conditions and the settings of the program (a lone label is called `classes`), one value per
sample, so that requests can share a batch, and give the program's outputs and, if samples are images, `images`. What
is served carries its own copy of latentc_runtime.

Sources: Triton's documentation of model repositories and configurations, and its `model_config.proto`. Symbols: B
batch, N rows of noise.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from onnx import helper

import latentc_runtime
from latentc import resources
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.engines import ENGINES
from latentc.export.folder import new_folder
from latentc.export.store import copy_file
from latentc_runtime.bundle import Bundle, write_manifest
from latentc_runtime.conditions import request_name
from latentc_runtime.manifest import EngineCall, FileEntry, Manifest, Output, Plan, ProgramEntry
from latentc_runtime.media import images
from latentc_runtime.sources import NUMPY, Condition, Input

Kind = Literal["auto", "ensemble", "sampler"]
Device = Literal["auto", "cpu", "cuda"]

MARKER = "latentc.json"
"""The file by which a repository is known as one that latentc wrote and may replace."""

MAX_BATCH = 64
"""Largest batch where the bundle names none."""

_TYPES = {"f32": "FP32", "f16": "FP16", "f64": "FP64", "i32": "INT32", "i64": "INT64", "bool": "BOOL"}
_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "cuda": "KIND_GPU"}
_BY_SAMPLE = "_by_sample"  # the engine input of per-step noise [N, B, ...] as Triton batches it, [B, N, ...]


@dataclass(frozen=True)
class Serving:
    """How models are served: instances of the one that computes, their device, microseconds a request may wait."""

    instances: int = 1
    device: Device = "auto"
    delay: int = 1000
    threads: int | None = None


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model; `dims` without the batch. A `scalar` is a number a sample, sent as [B, 1]."""

    name: str
    type: str
    dims: tuple[int, ...] = (1,)
    scalar: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Step:
    """A step of an ensemble: {the model's tensor: the ensemble's}."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Model:
    """What the configuration of one model says."""

    name: str
    about: str
    max_batch: int
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    backend: str = ""
    file: str = ""
    plans: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[Step] = ()
    instances: int = 1
    kind: str = "KIND_CPU"
    delay: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Deployment:
    """What was written: the model to ask, its kind, why that, and all models."""

    model: str
    kind: Literal["ensemble", "sampler"]
    why: str
    models: tuple[str, ...]


def repository_from_bundle(
    bundle: Bundle,
    entry: ProgramEntry,
    folder: Path,
    kind: Kind = "auto",
    name: str | None = None,
    serving: Serving | None = None,
) -> Deployment:
    """Writes the program `entry` of a bundle as the model repository `folder`, which appears whole or not at all.

    `name` is the model's (the bundle's), with what Triton does not take in names replaced. Raises DiagnosticError:
    E0501, E0502 (the folder), E0507 (a kind that the bundle cannot take).
    """
    serving = serving or Serving()
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name or bundle.manifest.name).strip("_") or "model"
    chosen, why = _chosen(bundle.manifest, entry, kind)
    models = (
        _ensemble(bundle, entry, name, serving) if chosen == "ensemble" else [_sampler(bundle, entry, name, serving)]
    )
    with new_folder(folder, "Triton repository", MARKER) as target:
        for model in models:
            version = target / model.name / "1"
            version.mkdir(parents=True)
            (version.parent / "config.pbtxt").write_text(config_text(model), encoding="utf-8")
            role = model.name.removeprefix(name)
            if model.backend == "python":
                _write_python(version, bundle, {"": "sampler", "_noise": "noise", "_images": "images"}[role])
            elif not model.steps:
                _write_engine(version, bundle, entry, model)
        made = Deployment(name, chosen, why, tuple(model.name for model in models))
        (target / MARKER).write_text(json.dumps({"bundle": bundle.manifest.name, **vars(made)}, indent=1) + "\n")
    return made


def config_text(model: Model) -> str:
    """The model's config.pbtxt: an inference.ModelConfig in protobuf's text form."""
    templates = resources.folder("templates") / "triton"
    env = Environment(
        loader=FileSystemLoader(templates), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )  # fmt: skip
    env.filters["q"] = json.dumps  # escapes as protobuf's text form does
    return env.get_template("config.pbtxt.j2").render(model=model)


# ---- which kind


def _chosen(manifest: Manifest, entry: ProgramEntry, kind: Kind) -> tuple[Literal["ensemble", "sampler"], str]:
    if kind == "sampler":
        return "sampler", "asked for"
    hindrance = _hindrance(manifest, entry)
    if kind == "ensemble" and hindrance is not None:
        message = f"this bundle cannot be an ensemble: {hindrance}"
        raise DiagnosticError(Diagnostic("E0507", message, help="use `--kind sampler`"))
    if kind == "ensemble":
        return "ensemble", "asked for"
    if hindrance is None and (triton := ENGINES[manifest.engine].triton) is not None:
        hindrance = triton.why_not_ensemble
    if hindrance is not None:
        return "sampler", hindrance
    return "ensemble", f"the engine is one file, which Triton runs itself ({entry.form})"


def _hindrance(manifest: Manifest, entry: ProgramEntry) -> str | None:
    """Why Triton cannot run the engine itself."""
    if entry.form == "host":
        return "its loop is driven by the host"
    if len(entry.program) != 1:
        return "its engine is several files"
    engine = ENGINES[manifest.engine]
    if engine.triton is None:
        return f"Triton has no backend for {engine.title}"
    if engine.triton.precisions is not None and manifest.precision not in engine.triton.precisions:
        return f"Triton's {engine.title} backend cannot be told to compute in {manifest.precision}"
    if any(plan.stripped for plan in manifest.plans):
        return "its plans hold no weights"
    if engine.triton.samples_first and any(i.rows is not None for i in entry.inputs):
        return "its plan takes noise by step and then by sample, and Triton batches by sample first"
    return None


# ---- the models


def _asked(manifest: Manifest, entry: ProgramEntry) -> list[Tensor]:
    conditions = manifest.conditions_of(entry)
    given = [tensor for c in conditions for tensor in _condition(c, request_name(c, conditions))]
    settings = [Tensor(s.name, "TYPE_FP32", optional=True) for s in manifest.settings_of(entry)]
    return [*given, Tensor("seeds", "TYPE_UINT64"), *settings]


def _condition(condition: Condition, name: str) -> list[Tensor]:
    """A condition, and its mask; a condition with a mask may be shorter than the longest."""
    dims = condition.shape or (1,)
    tensor = Tensor(name, f"TYPE_{_TYPES[condition.dtype]}", dims, optional=not condition.required)
    if not condition.mask:
        return [tensor]
    mask = Tensor(f"{name}_mask", "TYPE_BOOL", (-1,), optional=True)
    return [replace(tensor, dims=(-1, *dims[1:])), mask]


def _outputs(entry: ProgramEntry) -> list[Tensor]:
    made = [(o.name, o.output) for o in entry.outputs]
    return [Tensor(name, f"TYPE_{_TYPES[output.dtype]}", output.shape or (1,)) for name, output in made]


def _images(output: Output) -> list[Tensor]:
    """The output `images`, if samples are images."""
    if output.medium != "image":
        return []
    shape = images(np.zeros((1, *output.shape), NUMPY[output.dtype]), output).shape[1:]
    return [Tensor("images", "TYPE_UINT8", shape)]


def _sampler(bundle: Bundle, entry: ProgramEntry, name: str, serving: Serving) -> Model:
    manifest = bundle.manifest
    device: Device = "cpu" if ENGINES[manifest.engine].cpu_only else serving.device
    threads = {} if serving.threads is None else {"threads": str(serving.threads)}
    return Model(
        name,
        f"Samples of {manifest.name} in {entry.steps} steps.",
        entry.max_batch or MAX_BATCH,
        _asked(manifest, entry),
        [*_outputs(entry), *_images(entry.outputs[0].output)],
        backend="python",
        instances=serving.instances,
        kind=_KINDS[device],
        delay=serving.delay,
        parameters={**_named(entry), **threads},
    )


def _ensemble(bundle: Bundle, entry: ProgramEntry, name: str, serving: Serving) -> list[Model]:
    manifest, most = bundle.manifest, entry.max_batch or MAX_BATCH
    outputs, images = _outputs(entry), _images(entry.outputs[0].output)
    asked = _asked(manifest, entry)
    made = {i.name: _engine_tensor(i) for i in entry.inputs}
    noise = Model(
        f"{name}_noise",
        f"Inputs of {name}_engine from {', '.join(t.name for t in asked)}.",
        most,
        asked,
        [replace(t, scalar=False) for t in made.values()],
        backend="python",
        parameters=_named(entry),
    )
    engine = _engine(
        bundle, entry, name, [replace(t, name=_engine_name(entry, t.name)) for t in made.values()], serving
    )
    first = {t.name: t.name for t in noise.inputs}
    results = {made.name: own.name for made, own in zip(engine.outputs, outputs, strict=True)}
    steps = [
        Step(noise.name, first, {n: f"noise.{n}" for n in made}),
        Step(engine.name, {_engine_name(entry, n): f"noise.{n}" for n in made}, results),
    ]
    models = [noise, engine]
    if images:
        samples = replace(outputs[0], name="samples")
        pictures = Model(
            f"{name}_images",
            "Samples as pictures.",
            most,
            [samples],
            images,
            backend="python",
            parameters=_named(entry),
        )
        steps.append(Step(pictures.name, {"samples": outputs[0].name}, {"images": "images"}))
        models.append(pictures)
    about = f"Samples of {manifest.name} in {entry.steps} steps: {', '.join(model.name for model in models)}."
    return [Model(name, about, most, noise.inputs, [*outputs, *images], steps=steps), *models]


def _engine(bundle: Bundle, entry: ProgramEntry, name: str, inputs: Sequence[Tensor], serving: Serving) -> Model:
    manifest = bundle.manifest
    results = [
        replace(own, name=_call(entry).outputs[made.variable], scalar=not made.output.shape)
        for own, made in zip(_outputs(entry), entry.outputs, strict=True)
    ]
    made_for = " ".join(filter(None, (manifest.engine, manifest.versions.get(manifest.engine))))
    common = Model(
        f"{name}_engine",
        f"The engine of {manifest.name}, made for {made_for}.",
        entry.max_batch or MAX_BATCH,
        inputs,
        results,
        instances=serving.instances,
        kind=_KINDS[serving.device],
        delay=serving.delay,
    )
    triton = ENGINES[manifest.engine].triton
    assert triton is not None  # see `_hindrance`
    common = replace(common, backend=triton.backend, kind=triton.kind or common.kind)
    if ENGINES[manifest.engine].plans is not None:
        plans = _plans(manifest, entry)
        numbers = {f"{cc[:-1]}.{cc[-1]}": plan.plan for cc, plan in plans.items()}
        return replace(common, file=next(iter(plans.values())).plan, plans=numbers)
    threads = {} if serving.threads is None or triton.threads is None else {triton.threads: str(serving.threads)}
    return replace(common, file="model.onnx", parameters={**triton.parameters, **threads})


def _named(entry: ProgramEntry) -> dict[str, str]:
    """How a model's configuration names its program."""
    return {"program": entry.name, "steps": str(entry.steps)}


def _engine_tensor(i: Input) -> Tensor:
    """An input of the engine as Triton batches it."""
    dims = i.sample_shape if i.rows is None else (i.rows, *i.sample_shape)
    return Tensor(i.name, f"TYPE_{_TYPES[i.dtype]}", dims or (1,), scalar=not dims)


def _engine_name(entry: ProgramEntry, variable: str) -> str:
    """The engine's name for an input of the sampler."""
    inner = next(inner for inner, outer in _call(entry).inputs.items() if outer == variable)
    by_step = next(i for i in entry.inputs if i.name == variable).rows is not None
    return inner + _BY_SAMPLE if by_step else inner


def _call(entry: ProgramEntry) -> EngineCall:
    (call,) = entry.program
    assert isinstance(call, EngineCall), "forms unroll and loop are one call"
    return call


def _plans(manifest: Manifest, entry: ProgramEntry) -> dict[str, Plan]:
    file = _call(entry).file
    return {plan.capability.removeprefix("sm"): plan for plan in manifest.plans if plan.file == file}


# ---- their files


def _write_python(version: Path, bundle: Bundle, role: str) -> None:
    """model.py with what it imports beside it; a sampler gets the whole bundle, the others its manifest."""
    templates = resources.folder("templates") / "triton"
    shutil.copyfile(templates / f"{role}.py", version / "model.py")
    shutil.copyfile(templates / "served.py", version / "served.py")
    runtime = Path(latentc_runtime.__file__).parent
    shutil.copytree(runtime, version / "latentc_runtime", ignore=shutil.ignore_patterns("__pycache__"))
    if role != "sampler":
        shutil.copyfile(bundle.path("manifest.json"), version / "manifest.json")
        return
    target = version / "bundle"
    manifest = bundle.manifest
    for name, source in _files(bundle, (*manifest.files, *manifest.references)).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        copy_file(source, target / name)
    # What was referenced lies in this copy as well, which may be served elsewhere.
    own = {n: FileEntry(r.sha256, r.size) for n, r in manifest.references.items()}
    write_manifest(target, replace(manifest, files={**manifest.files, **own}, references={}))


def _write_engine(version: Path, bundle: Bundle, entry: ProgramEntry, model: Model) -> None:
    if model.plans:
        for plan in model.plans.values():
            copy_file(bundle.path(plan), version / plan)
        return
    triton = ENGINES[bundle.manifest.engine].triton
    place = version / "model.onnx" if triton is not None and triton.folder else version
    place.mkdir(exist_ok=True)
    graph = onnx.load(str(bundle.path(_call(entry).file)), load_external_data=False)
    _batch_first(graph.graph, [i for i in entry.inputs if i.rows is not None], entry)
    (place / "model.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    wanted = [n for n in (*bundle.manifest.files, *bundle.manifest.references) if n.startswith("weights/")]
    for name, source in _files(bundle, wanted).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        copy_file(source, place / name)


def _files(bundle: Bundle, names: Sequence[str]) -> dict[str, Path]:
    references = bundle.manifest.references
    return {n: Path(references[n].location) if n in references else bundle.path(n) for n in names}


def _batch_first(graph: onnx.GraphProto, inputs: Sequence[Input], entry: ProgramEntry) -> None:
    """Inputs [N, B, ...] become [B, N, ...], the first node of each turning it back."""
    for given in inputs:
        inner = _engine_name(entry, given.name).removesuffix(_BY_SAMPLE)
        declared = next(value for value in graph.input if value.name == inner)
        declared.name += _BY_SAMPLE
        dims = declared.type.tensor_type.shape.dim
        first, second = (type(dims[0]).FromString(dims[k].SerializeToString()) for k in (0, 1))
        dims[0].CopyFrom(second)
        dims[1].CopyFrom(first)
        perm = [1, 0, *range(2, len(dims))]
        graph.node.insert(0, helper.make_node("Transpose", [declared.name], [inner], perm=perm))


__all__ = ["MARKER", "Deployment", "Device", "Kind", "Model", "Serving", "config_text", "repository_from_bundle"]
