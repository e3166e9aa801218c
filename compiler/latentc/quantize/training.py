"""The start of training that rounds as a quantised engine: a spec, and the weights of teacher and student.

A layer of an engine may be several of the network (queries, keys and values in one), or one whose weight a pass has
changed. Its sources are the layers of the network that are rounded in training; each takes over the scale of its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentc.checkpoint import write_weights
from latentc.checkpoint.parameters import network_types
from latentc.components.contract import Lowered
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.files.named import write_text
from latentc.passes.quantize.forms import fits
from latentc.passes.quantize.plan import LARGEST, LayerQuant, quantizable, stem
from latentc.quantize.calibrate import calibrate
from latentc.quantize.model import Model
from latentc.quantize.plan import NARROWED
from latentc.quantize.saturation import saturates
from latentc.quantize.scales import measured_tensors
from latentc.spec import Spec
from latentc.spec.load import data_from_spec
from latentc.spec.write import yaml_from_data
from latentc.weights import Array, Expr, by_path, materialise, write_safetensors
from latentc.weights.files import open_state_dicts

SCALE = ".input_scale"
"""The end of the names of scales that training holds."""

SPEC, TEACHER, STUDENT = "spec.yaml", "teacher.safetensors", "student.safetensors"


@dataclass(frozen=True)
class Rounding:
    """The layers of `main` that training rounds, by the names of their weights, and the scales of their inputs."""

    layers: tuple[str, ...]
    scales: Mapping[str, np.ndarray[Any, Any]]
    narrow: bool


def rounding(model: Model) -> Rounding:
    """Calibrates `main` and finds its layers that `optimize.quantize` rounds.

    Raises DiagnosticError: E0801, E0802 as quantising does; E0805 if no layer is left, E0807 if a pass has merged what
    training cannot round alike.
    """
    model = model.in_float32()
    scheme, engine = model.settings.scheme, model.spec.target.engine
    wanted = {p: layer for p, layer in model.chosen.items() if p.startswith("main.") and fits(layer, scheme, engine)}
    if not wanted:
        mend = "exclude fewer layers, or use another scheme"
        raise DiagnosticError(Diagnostic("E0805", f"no layer of `main` is left to round as {scheme}", help=mend))
    trained = model.lowered.module
    known = quantizable(trained, [entry for entry in trained.entries if entry.startswith("main.")], normed=True)
    sources: dict[str, list[str]] = {}
    for path in wanted:
        own = model.sources(path)
        if strangers := [name for name in own if name not in known]:
            message = f"the engine's layer {path} is computed from `{strangers[0]}`, which no single layer reads"
            mend = f"leave it in full precision: `optimize.quantize.exclude: ['{path.removesuffix('.weight')}']`"
            raise DiagnosticError(Diagnostic("E0807", message, help=mend))
        sources[path] = own
    narrow = scheme in NARROWED and saturates(engine)
    scales: dict[str, np.ndarray[Any, Any]] = {}
    if scheme in LARGEST:
        seen = calibrate(model)
        plan = {path: LayerQuant(scheme, narrow=narrow) for path in wanted}
        found = measured_tensors(plan, model.layers, seen.inputs, model.settings.calibration.range)
        for path, names in sources.items():
            scale = found[f"{wanted[path].group}{SCALE}"]
            scales |= {f"{stem(name)}{SCALE}": scale for name in names}
    layers = [name.removeprefix("main.") for names in sources.values() for name in names]
    return Rounding(tuple(dict.fromkeys(layers)), {n.removeprefix("main."): x for n, x in scales.items()}, narrow)


def written_start(
    spec: Spec, lowered: Lowered, weights: Mapping[str, Mapping[str, Expr]], folder: Path, rate: float
) -> Path:
    """Writes the spec of the distillation and the weights that it starts from into `folder`; returns the spec's path.

    `weights` are those of the networks that samples are drawn with. The learning rate is `rate` times the spec's.
    Raises as `rounding` and as writing files.
    """
    found = rounding(Model(lowered, spec, by_path(weights)))
    folder.mkdir(parents=True, exist_ok=True)
    teacher, student = (folder / name for name in (TEACHER, STUDENT))
    own = {"format": "pt", "spec": spec.name}
    write_weights(spec, lowered, {"main": weights["main"]}, teacher, metadata=own)
    known = network_types(lowered, "main")
    stored = {name: tensor for name, tensor in weights["main"].items() if name in known}
    write_safetensors(student, {**stored, **{n: Array(x) for n, x in found.scales.items()}}, own)
    data = data_from_spec(spec)
    if "backbone" in data:
        data["networks"] = {"main": data.pop("backbone"), **(data.get("networks") or {})}
    networks = data["networks"]
    for name in networks:
        if name != "main":
            networks[name]["frozen"] = True
    networks["main"] |= {"pretrained": str(student.resolve()), "frozen": False}
    networks["teacher"] = {"kind": "like", "pretrained": str(teacher.resolve())}
    objective = {"kind": "quantization_distillation", "of": data["objective"], "layers": list(found.layers)}
    data["objective"] = objective | ({"narrow": True} if found.narrow else {})
    optimizer = spec.train.optimizers.get("main", spec.train.optimizer).model_dump(mode="json", by_alias=True)
    data["train"] |= {"optimizers": {}, "optimizer": {**optimizer, "lr": optimizer["lr"] * rate}}
    data["name"] = f"{spec.name}-{spec.optimize.quantize.scheme.replace('_', '-')}" if spec.optimize.quantize else ""
    write_text(folder / SPEC, yaml_from_data(data))
    return folder / SPEC


def scales_in(path: Path | str) -> dict[str, np.ndarray[Any, Any]]:
    """The scales of inputs of layers of `main` in a weights file that such training wrote, by path; {} of others."""
    for tensors in open_state_dicts(path).values():
        found = {name: tensor for name, tensor in tensors.items() if name.endswith(SCALE)}
        if found:
            return {f"main.{name.removeprefix('main.')}": materialise(tensor) for name, tensor in found.items()}
    return {}
