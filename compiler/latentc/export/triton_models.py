"""The models of a Triton repository: what the configuration of each says, and its text.

Sources: Triton's documentation of model configurations, and its `model_config.proto`.
Symbols: B batch, N rows of noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from latentc.engines import ENGINES
from latentc.files.templates import rendered
from latentc_runtime.conditions import request_name
from latentc_runtime.manifest import EngineCall, Manifest, Output, Plan, ProgramEntry
from latentc_runtime.media import images
from latentc_runtime.sources import NUMPY, Condition, Input

Device = Literal["auto", "cpu", "cuda"]

MAX_BATCH = 64
"""Largest batch if the bundle has no limit."""

_TYPES = {"f32": "FP32", "f16": "FP16", "f64": "FP64", "i32": "INT32", "i64": "INT64", "bool": "BOOL"}
_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "cuda": "KIND_GPU"}
BY_SAMPLE = "_by_sample"
"""Suffix of an engine input for per-step noise [N, B, ...] that Triton batches as [B, N, ...]."""


@dataclass(frozen=True)
class Serving:
    """How models are served.

    `instances` of the model that computes, on `device`; `delay`: microseconds that a request may wait for others;
    `threads`: CPU threads per instance.
    """

    instances: int = 1
    device: Device = "auto"
    delay: int = 1000
    threads: int | None = None


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model; `dims` without the batch. A `scalar` is one number per sample, sent as [B, 1]."""

    name: str
    type: str
    dims: tuple[int, ...] = (1,)
    scalar: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Step:
    """A step of an ensemble: inputs and outputs {tensor of the model: tensor of the ensemble}."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Model:
    """The configuration of one model; `steps` of an ensemble, `plans` {compute capability: file}."""

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


def config_text(model: Model) -> str:
    """The model's config.pbtxt: an inference.ModelConfig in protobuf's text form."""
    return rendered("triton/config.pbtxt", {"model": model})


def _request_tensors(manifest: Manifest, entry: ProgramEntry) -> list[Tensor]:
    conditions = manifest.conditions_of(entry)
    given = [tensor for c in conditions for tensor in _condition(c, request_name(c, conditions))]
    settings = [Tensor(s.name, "TYPE_FP32", optional=True) for s in manifest.settings_of(entry)]
    return [*given, Tensor("seeds", "TYPE_UINT64"), *settings]


def _condition(condition: Condition, name: str) -> list[Tensor]:
    """Tensors of a condition: its value and, if it has one, its mask; with a mask the first axis may vary."""
    dims = condition.shape or (1,)
    tensor = Tensor(name, f"TYPE_{_TYPES[condition.dtype]}", dims, optional=not condition.required)
    if not condition.mask:
        return [tensor]
    mask = Tensor(f"{name}_mask", "TYPE_BOOL", (-1,), optional=True)
    return [replace(tensor, dims=(-1, *dims[1:])), mask]


def _outputs(entry: ProgramEntry) -> list[Tensor]:
    return [Tensor(o.name, f"TYPE_{_TYPES[o.output.dtype]}", o.output.shape or (1,)) for o in entry.outputs]


def _images(output: Output) -> list[Tensor]:
    """The output `images`, if samples are images."""
    if output.medium != "image":
        return []
    shape = images(np.zeros((1, *output.shape), NUMPY[output.dtype]), output).shape[1:]
    return [Tensor("images", "TYPE_UINT8", shape)]


def sampler_models(manifest: Manifest, entry: ProgramEntry, name: str, serving: Serving) -> list[Model]:
    """The one model of the kind `sampler`."""
    device: Device = "cpu" if ENGINES[manifest.engine].cpu_only else serving.device
    threads = {} if serving.threads is None else {"threads": str(serving.threads)}
    sampler = Model(
        name,
        f"Samples of {manifest.name} in {entry.steps} steps.",
        entry.max_batch or MAX_BATCH,
        _request_tensors(manifest, entry),
        [*_outputs(entry), *_images(entry.outputs[0].output)],
        backend="python",
        instances=serving.instances,
        kind=_KINDS[device],
        delay=serving.delay,
        parameters={**_program_parameters(entry), **threads},
    )
    return [sampler]


def ensemble_models(manifest: Manifest, entry: ProgramEntry, name: str, serving: Serving) -> list[Model]:
    """The ensemble, then the models it joins."""
    most = entry.max_batch or MAX_BATCH
    outputs, images = _outputs(entry), _images(entry.outputs[0].output)
    asked = _request_tensors(manifest, entry)
    made = {i.name: _engine_tensor(i) for i in entry.inputs}
    noise = Model(
        f"{name}_noise",
        f"Inputs of {name}_engine from {', '.join(t.name for t in asked)}.",
        most,
        asked,
        [replace(t, scalar=False) for t in made.values()],
        backend="python",
        parameters=_program_parameters(entry),
    )
    engine = _engine(
        manifest, entry, name, [replace(t, name=engine_input(entry, t.name)) for t in made.values()], serving
    )
    first = {t.name: t.name for t in noise.inputs}
    results = {made.name: own.name for made, own in zip(engine.outputs, outputs, strict=True)}
    steps = [
        Step(noise.name, first, {n: f"noise.{n}" for n in made}),
        Step(engine.name, {engine_input(entry, n): f"noise.{n}" for n in made}, results),
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
            parameters=_program_parameters(entry),
        )
        steps.append(Step(pictures.name, {"samples": outputs[0].name}, {"images": "images"}))
        models.append(pictures)
    about = f"Samples of {manifest.name} in {entry.steps} steps: {', '.join(model.name for model in models)}."
    return [Model(name, about, most, noise.inputs, [*outputs, *images], steps=steps), *models]


def _engine(manifest: Manifest, entry: ProgramEntry, name: str, inputs: Sequence[Tensor], serving: Serving) -> Model:
    results = [
        replace(own, name=engine_call(entry).outputs[made.variable], scalar=not made.output.shape)
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


def _program_parameters(entry: ProgramEntry) -> dict[str, str]:
    """The parameters by which a model's configuration names its program."""
    return {"program": entry.name, "steps": str(entry.steps)}


def _engine_tensor(i: Input) -> Tensor:
    """An input of the engine with the batch first, as in all of Triton's tensors."""
    dims = i.sample_shape if i.rows is None else (i.rows, *i.sample_shape)
    return Tensor(i.name, f"TYPE_{_TYPES[i.dtype]}", dims or (1,), scalar=not dims)


def engine_input(entry: ProgramEntry, variable: str) -> str:
    """The name of the engine input that takes the program's input `variable`."""
    inner = next(inner for inner, outer in engine_call(entry).inputs.items() if outer == variable)
    by_step = next(i for i in entry.inputs if i.name == variable).rows is not None
    return inner + BY_SAMPLE if by_step else inner


def engine_call(entry: ProgramEntry) -> EngineCall:
    (call,) = entry.program
    assert isinstance(call, EngineCall), "forms unroll and loop are one call"
    return call


def _plans(manifest: Manifest, entry: ProgramEntry) -> dict[str, Plan]:
    file = engine_call(entry).file
    return {plan.capability.removeprefix("sm"): plan for plan in manifest.plans if plan.file == file}
