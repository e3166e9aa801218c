"""Training for quantised engines: the student is what the engine computes; its spec, its scales, what is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from emitted import emitted
from quantised import QUICK, Small, small

from latentc import api
from latentc.checkpoint import network_params
from latentc.cli import run as command
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.passes.quantize.plan import LayerQuant, Quantization
from latentc.quantize.training import STUDENT, rounding, scales_in, written_start
from latentc.spec import load_spec
from latentc.weights import Array, materialise, write_safetensors
from latentc.weights.files import open_state_dicts

CASES = {
    "int8": ("{scheme: int8}", ()),
    "int8 on openvino": ("{scheme: int8}", ("target.engine=openvino",)),  # convolutions too
    "int8_weights": ("{scheme: int8_weights}", ("target.engine=openvino",)),
    "int4_weights": ("{scheme: int4_weights}", ()),
    "fp8": ("{scheme: fp8}", ("target={engine: tensorrt-rtx, precision: fp16, capabilities: [sm89]}",)),
    "nvfp4": ("{scheme: nvfp4}", ("target={engine: tensorrt-rtx, precision: fp16, capabilities: [sm120]}",)),
    "mxfp4_weights": ("{scheme: mxfp4_weights}", ()),
}


@cache
def made(case: str) -> Small:
    if case == "normed weights":
        return gan()
    quantize, more = CASES[case]
    return small("digits_dit", quantize, more)


def gan() -> Small:
    """BigGAN, whose weights have spectral norms, without the layer that a batch norm is folded into in engines."""
    quantize = f"{{scheme: int8, exclude: ['*.conv1.*'], {QUICK}}}"
    overrides = ("target.engine=openvino", "networks.main.width=4", f"optimize.quantize={quantize}")
    spec = load_spec("digits_biggan", None, overrides)
    lowered, rng = lower(spec), np.random.default_rng(0)
    arrays = {}
    for path, param in network_params(lowered, lowered.networks["main"]).items():
        value = rng.standard_normal([int(d) for d in param.type.shape]).astype(np.float32)
        arrays[f"main.{path}"] = np.abs(value) + np.float32(0.5) if path.endswith("running_var") else value
    return Small("digits_biggan", overrides, spec, lowered, arrays)


def start(given: Small, folder: Path) -> Path:
    weights = {"main": {path.removeprefix("main."): tensor for path, tensor in given.weights.items()}}
    return written_start(given.spec, given.lowered, weights, folder, 0.1)


@pytest.mark.parametrize("case", [*CASES, "normed weights"])
def test_the_student_computes_what_the_engine_does(case: str, tmp_path: Path) -> None:
    """The emitted student in float64 against the oracle of the quantised module, weights and scales the same."""
    given = made(case)
    spec = load_spec(str(start(given, tmp_path / "start")))
    student = open_state_dicts(tmp_path / "start" / STUDENT)[""]
    rng = np.random.default_rng(1)
    feed = {"x": rng.standard_normal((3, 1, 8, 8)), "t": np.array([999, 400, 3]), "y": np.array([1, 5, 9])}
    feed |= {"z": rng.standard_normal((3, 32))}
    names = [port.name for port in given.lowered.networks["main"].methods["forward"].inputs]
    with emitted(lower(spec, to_emit=True), spec, tmp_path / "project") as project:
        network = project.model.NETWORKS["main"]().double().eval()
        network.load_state_dict({n: torch.tensor(materialise(e)).double() for n, e in student.items()})
        plain = project.model.NETWORKS["teacher"]().double().eval()
        plain.load_state_dict(
            {n: torch.tensor(materialise(e)).double() for n, e in student.items() if not n.endswith("input_scale")}
        )
        with torch.no_grad():
            args = [torch.tensor(feed[name]).double() if name != "y" else torch.tensor(feed[name]) for name in names]
            ours, unrounded = network(*args).numpy(), plain(*args).numpy()

    model = given.model.in_float32()
    found = rounding(model)
    plan = {
        path: LayerQuant(model.settings.scheme, narrow=found.narrow)
        for path in model.chosen
        if {s.removeprefix("main.") for s in model.sources(path)} <= {*found.layers}
    }
    tensors = {f"{model.layers[path].group}.input_scale": scale for path in plan for scale in _scales(found, path)}
    quantization = Quantization(plan, tensors)
    weights = {path: materialise(expr) for path, expr in model.with_tensors(quantization).items()}
    module = model.quantised(quantization)
    assert plan
    oracle = Interpreter(module, {name.removeprefix("main."): value for name, value in weights.items()})
    (theirs,) = oracle.run("main.forward", *(feed[name] for name in names))
    assert np.abs(theirs - unrounded).max() > 1e-3, "quantising changes nothing"
    assert np.abs(ours - theirs).max() <= 1e-9 * np.abs(theirs).max()


def _scales(found: Any, path: str) -> list[np.ndarray]:
    scale = found.scales.get(path.removeprefix("main.").partition(".weight")[0] + ".input_scale")
    return [] if scale is None else [scale]


def test_training_starts_at_the_teacher_and_reaches_every_weight(tmp_path: Path) -> None:
    """The loss of the start is the error of rounding; its gradient passes the rounding, and none goes to scales."""
    given = made("int8")
    spec = load_spec(str(start(given, tmp_path / "start")))
    assert spec.train.optimizer.lr == pytest.approx(0.1 * given.spec.train.optimizer.lr)
    student = open_state_dicts(tmp_path / "start" / STUDENT)[""]
    with emitted(lower(spec, to_emit=True), spec, tmp_path / "project") as project:
        (update,) = project.objective.UPDATES
        main, teacher = (project.model.NETWORKS[name]() for name in update.networks)
        main.load_state_dict({n: torch.tensor(materialise(e)) for n, e in student.items()})
        teacher.load_state_dict({n: t for n, t in main.state_dict().items() if n in teacher.state_dict()})
        batch = {"x": torch.randn(4, 1, 8, 8), "y": torch.tensor([0, 3, 5, 9])}
        loss = update.loss(main, teacher, **batch, **update.draws(4, torch.Generator().manual_seed(0)))
        loss.backward()
    assert update.trained == ("main",)
    assert 0 < float(loss.detach()) < 0.01
    gradients = {name: weight.grad for name, weight in main.named_parameters()}
    assert all(gradients[name] is not None and gradients[name].abs().max() > 0 for name in spec.objective.layers)
    assert all(weight.grad is None for weight in teacher.parameters())


def test_a_compiled_student_has_the_scales_and_the_weights_it_was_trained_with(tmp_path: Path) -> None:
    given = made("int8")
    start(given, tmp_path / "start")
    student = tmp_path / "start" / STUDENT
    tensors = {name: materialise(tensor) for name, tensor in open_state_dicts(student)[""].items()}
    path = "blocks.0.mlp.fc1.input_scale"
    tensors[path] = np.float32(1.5) * tensors[path]
    write_safetensors(student, {name: Array(np.asarray(x)) for name, x in tensors.items()})
    overrides = [*given.overrides, "optimize.quantize.budget.psnr=1", "optimize.quantize.min_speedup=0"]
    api.compile("digits_dit", student, tmp_path / "bundle", overrides=overrides)
    assert float(tensors[path]) in _stored(tmp_path)
    assert scales_in(student)[f"main.{path}"] == tensors[path]
    assert scales_in(given.file(tmp_path)) == {}


def _stored(folder: Path) -> list[float]:
    """All single numbers in the ONNX files and weights of a bundle."""
    found: list[float] = []
    for file in (folder / "bundle").rglob("*.onnx"):
        for tensor in onnx.load(str(file), load_external_data=False).graph.initializer:
            if not tensor.dims and tensor.data_type == onnx.TensorProto.FLOAT and not tensor.external_data:
                found.append(float(onnx.numpy_helper.to_array(tensor)))
    for file in (folder / "bundle").rglob("*.safetensors"):
        group = open_state_dicts(file)[""]
        found += [float(materialise(tensor)) for tensor in group.values() if tensor.shape == ()]
    return found


def test_psnr_is_against_the_weights_that_the_budget_names(tmp_path: Path) -> None:
    """Other weights make the PSNR of the plan fail; its own samples do not."""
    given = made("int8")
    file = given.file(tmp_path)
    other = tmp_path / "other.safetensors"
    tensors = {name: materialise(tensor) for name, tensor in open_state_dicts(file)[""].items()}
    write_safetensors(other, {name: Array(np.asarray(x * 1.3, np.float32)) for name, x in tensors.items()})
    limits = {"psnr": 25, "weights": str(other)}
    overrides = [*given.overrides, f"optimize.quantize.budget={limits}", "optimize.quantize.min_speedup=0"]
    with pytest.raises(DiagnosticError, match="worse than its budget allows"):
        api.compile("digits_dit", file, tmp_path / "bundle", overrides=overrides)


REFUSED = {
    "smoothing": ("digits_dit", ["optimize.quantize.smooth=0.5"], "int8", "without smoothing vectors"),
    "no sampler": ("digits_dit", ["sampler=null"], "int8", "no sampler to calibrate with"),
    "another teacher": ("digits_guided", [], "int8", "already learns from a network"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused(case: str, tmp_path: Path) -> None:
    name, overrides, scheme, message = REFUSED[case]
    file = made("int8").file(tmp_path)
    small_ones = made("int8").overrides[:3]
    with pytest.raises(DiagnosticError, match=message):
        api.train(name, tmp_path / "p", (), None, [*small_ones, *overrides], quantize=scheme, weights=file)


def test_weights_are_for_quantising(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DiagnosticError, match="for training that quantises"):
        api.train("digits_dit", tmp_path / "p", weights="model.safetensors")
    words = ["train", "digits_dit", "-o", str(tmp_path / "p"), "-w"]
    assert command([*words, "model.safetensors"]) == 1
    assert "for training that quantises" in capsys.readouterr().err
    assert command([*words, str(tmp_path / "none.safetensors"), "--quantize", "int8"]) == 1
    assert "none.safetensors" in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_layers_are_those_of_the_network() -> None:
    spec = load_spec(
        "digits_dit",
        None,
        [
            "objective={kind: quantization_distillation, of: {kind: diffusion}, layers: [blocks.0.attn.qvk.weight]}",
            "optimize.quantize.scheme=int8",
            "networks.teacher={kind: like, pretrained: teacher.safetensors}",
        ],
    )
    with pytest.raises(DiagnosticError, match=r"no linear or convolution layer with the weight `blocks\.0\.attn\.qvk"):
        lower(spec, to_emit=True)
