"""LiT: linear attention against attention written out, its objective against its terms, weights it does not inherit."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted
from random_weights import weights_of
from test_distillation import column, in_float32, network, request

from latentc.components.decoding import Given
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.lit.linear_attention import LinearAttention

SMALL = ["data={kind: npz, classes: 5, shape: [4, 8, 8]}", "objective.base.process.steps=100", "sampler.steps=4"]
SMALL += [f"networks.{n}.{size}" for n in ("main", "teacher") for size in ("width=16", "depth=2")]
SMALL += ["networks.main.block.mixer.heads=2", "networks.teacher.block.mixer.heads=4"]
CAPTIONED = (
    "data={kind: npz, shape: [4, 8, 8], fields: {caption: {shape: [5, 8]}, caption_mask: {shape: [5], dtype: bool}}}"
)
DIM, HEADS, GRID = 12, 3, 4


def test_linear_attention_is_attention_with_another_kernel() -> None:
    """Scores relu(q) relu(k)^T, each row divided by its sum, and a convolution of the values (equations 3 to 5)."""
    mixer = LinearAttention(kind="linear_attention", heads=HEADS, kernel=3, bias=True)
    mb = ModuleBuilder()
    b = mb.function("main")
    x = b.input("x", f32(B, GRID * GRID, DIM))
    b.output(*mixer.apply(b, "attn", x, "xavier", Given(), dim=DIM, heads=HEADS, grid=GRID))
    mb.entries["main"] = b.finish()
    rng = np.random.default_rng(0)
    shapes = {"q.weight": (DIM, DIM), "q.bias": (DIM,), "kv.weight": (2 * DIM, DIM), "kv.bias": (2 * DIM,)}
    shapes |= {"dwc.weight": (DIM // HEADS, 1, 3, 3), "dwc.bias": (DIM // HEADS,)}
    shapes |= {"proj.weight": (DIM, DIM), "proj.bias": (DIM,)}
    weights = {f"attn.{name}": rng.standard_normal(shape) for name, shape in shapes.items()}
    for name in ("q", "kv"):
        weights[f"attn.{name}.bias"] += 3  # so that no row of the scores is all zero
    given = rng.standard_normal((2, GRID * GRID, DIM))
    (found,) = Interpreter(mb.finish(), weights).run("main", given)

    w = {name: torch.from_numpy(weights[f"attn.{name}"]) for name in shapes}
    tokens = torch.from_numpy(given)
    q = F.linear(tokens, w["q.weight"], w["q.bias"])
    k, v = F.linear(tokens, w["kv.weight"], w["kv.bias"]).chunk(2, dim=-1)
    heads = []
    for head in range(HEADS):
        own = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
        scores = q[..., own].relu() @ k[..., own].relu().transpose(1, 2)
        mixed = scores / scores.sum(-1, keepdim=True) @ v[..., own]
        square = v[..., own].unflatten(1, (GRID, GRID)).movedim(-1, 1)
        local = F.conv2d(square, w["dwc.weight"], w["dwc.bias"], padding=1, groups=DIM // HEADS)
        heads.append(mixed + local.flatten(2).transpose(1, 2))
    wanted = F.linear(torch.cat(heads, -1), w["proj.weight"], w["proj.bias"]).numpy()
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_the_objective_is_the_sum_of_its_terms() -> None:
    spec = load_spec("lit", overrides=SMALL)
    low = lower(spec)
    weights, given = weights_of(low, 0.2), request(low)
    oracle = Interpreter(low.module, weights)
    found, base, noise, variance = oracle.run("loss", *given.values())
    assert found == pytest.approx(base + 0.5 * noise + 0.05 * variance)
    bar = spec.objective.base.process.alphas_cumprod[given["t"]]
    x_t = column(np.sqrt(bar)) * given["x"] + column(np.sqrt(1 - bar)) * given["noise"]
    y = np.where(given["drop"] < 0.1, 5, given["y"]) if "drop" in given else given["y"]
    student, teacher = (network(low, oracle, n)(x_t, given["t"], y=y) for n in ("main", "teacher"))
    for part, value in ((slice(0, 4), noise), (slice(4, 8), variance)):
        assert value == pytest.approx(np.mean((student[:, part] - teacher[:, part]) ** 2), rel=1e-6)
    # Without a teacher the loss is that of DiT.
    plain = ["objective={kind: diffusion, variance: learned_range, process: {kind: discrete, steps: 100}}"]
    alone = lower(load_spec("lit", overrides=[*SMALL[:1], *SMALL[2:], *plain, "networks.teacher=null"]))
    loss, *_ = Interpreter(alone.module, weights).run("loss", *given.values())
    assert loss == pytest.approx(base, rel=1e-9)


@pytest.mark.parametrize(("name", "data"), [("lit", SMALL[0]), ("lit_t2i", CAPTIONED)])
def test_all_but_the_attention_is_inherited(name: str, data: str, tmp_path: Path) -> None:
    spec = load_spec(name, overrides=[data, *SMALL[1:]])
    low = lower(spec)
    with emitted(low, spec, tmp_path / "project") as project:
        checkpoint = importlib.import_module("latentc_support.checkpoint")  # of the project

        teacher, student = (project.model.NETWORKS[name]() for name in ("teacher", "main"))
        for weight in teacher.parameters():
            torch.nn.init.normal_(weight)
        checkpoint.save_weights({"main": teacher.state_dict()}, tmp_path / "dit.safetensors")
        before = {name: weight.clone() for name, weight in student.state_dict().items()}
        checkpoint.load_weights(student, "main", tmp_path / "dit.safetensors", ["blocks.*.attn.*"])
        with pytest.raises(SystemExit, match="does not fit"):
            checkpoint.load_weights(student, "main", tmp_path / "dit.safetensors")
    assert "fresh_weights" in (tmp_path / "project" / "config.yaml").read_text()
    for name, weight in student.state_dict().items():
        wanted = before[name] if ".attn." in name else teacher.state_dict()[name]
        assert torch.equal(weight, wanted), name


def test_fresh_weights_are_of_a_copy() -> None:
    with pytest.raises(DiagnosticError, match="neither `copy_of` nor `pretrained`"):
        load_spec("dit", overrides=["backbone.fresh_weights=['*.attn.*']"])
    with pytest.raises(DiagnosticError, match="no learned variance"):
        load_spec("lit", overrides=["objective.base.variance=fixed_small"])


def test_a_pattern_is_of_some_weight() -> None:
    tiny = ["backbone.width=32", "backbone.depth=1", "backbone.block.mixer.heads=2"]
    with pytest.raises(DiagnosticError, match=r"`block.*.attn.*`(?s:.*)such as `blocks.0.attn"):
        lower(load_spec("dit", overrides=[*tiny, "backbone.frozen_weights=['block.*.attn.*']"]))
    with pytest.raises(DiagnosticError, match=r"no weight of network `main` is named `\*.attention"):
        more = ["backbone.pretrained=a.safetensors", "backbone.fresh_weights=['*.attention.*']"]
        lower(load_spec("dit", overrides=[*tiny, *more]))


def test_emitted_losses_are_the_interpreters(tmp_path: Path) -> None:
    spec = load_spec("lit", overrides=SMALL)
    low = lower(spec)
    given, weights = request(low), weights_of(low, 0.2)
    wanted = Interpreter(low.module, weights).run("loss", *given.values())
    with emitted(low, spec, tmp_path / "project") as project, torch.no_grad():
        (update,) = project.objective.UPDATES
        models = []
        for net in update.networks:
            models.append(project.model.NETWORKS[net]())
            own = {k.removeprefix(f"{net}."): in_float32(v) for k, v in weights.items() if k.startswith(f"{net}.")}
            models[-1].load_state_dict({k: own.get(k, v) for k, v in models[-1].state_dict().items()})
        found = update.loss(*models, **{k: in_float32(v) for k, v in given.items()})
    assert [float(value) for value in found] == pytest.approx([float(value) for value in wanted], rel=1e-4)
