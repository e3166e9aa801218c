"""Distillation: the losses against plain formulas, rounds of training, what is refused, what is compiled."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted
from random_weights import weights_of

import latentc_runtime
from latentc import api
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

SMALL = ["networks.main.width=16", "networks.main.depth=2", "networks.main.block.mixer.heads=2"]
DIT = [
    *SMALL,
    "data={kind: npz, classes: 5, shape: [4, 8, 8]}",
    "objective.base.process.steps=100",
]
FIXED = ["conditioning={class: {kind: label, dropout: 0.1}, time: {kind: timestep}}", "objective.scale=2.5"]
FLOW = [
    "objective={kind: progressive_distillation, rounds: [4, 2], base: {kind: flow}}",
    "sampler={kind: euler, steps: 2, guidance: null}",
]
ROUNDS = ["objective.rounds=[4, 2]", "sampler.steps=2"]
RNG = np.random.default_rng(5)


@cache
def lowered(name: str, *overrides: str) -> tuple[Any, Lowered]:
    spec = load_spec(name, overrides=[*(DIT if name.startswith("dit") else SMALL), *overrides])
    return spec, lower(spec)


def request(low: Lowered, batch: int = 3) -> dict[str, np.ndarray]:
    shape = [int(d) for d in low.networks["main"].methods["forward"].input("state").type.shape[1:]]
    given = {
        "x": RNG.standard_normal((batch, *shape)),
        "y": RNG.integers(0, 5, batch),
        "guidance": RNG.uniform(1, 3, batch),
        "t": np.array([0, 40, 99])[:batch],
        "step": np.arange(batch),
        "noise": RNG.standard_normal((batch, *shape)),
        "round": np.array(1),
        "drop": np.linspace(0.05, 1, batch),  # the first is dropped
    }
    return {v.name: given[v.name] for v in low.module.entry("loss").inputs}


def network(low: Lowered, oracle: Interpreter, name: str) -> Any:
    """f(x, t, y, guidance): a network's output; what it is not told is left out."""
    forward = low.networks[name].methods["forward"]

    def run(x: np.ndarray, t: np.ndarray, **told: np.ndarray) -> np.ndarray:
        operands = {"state": x, "time": np.asarray(t, float)}
        arrays = [operands[p.role] if p.role in operands else told[p.name] for p in forward.inputs]
        return oracle.run(forward.function, *arrays, prefix=name)[0]

    return run


def column(a: Any) -> np.ndarray:
    return np.asarray(a, float)[:, None, None, None]


@pytest.mark.parametrize(
    ("name", "overrides", "channels"),
    [
        ("digits_guided", [], None),
        ("digits_guided", FIXED, None),
        ("dit_guidance_distillation", [], 3),
    ],
    ids=["told", "fixed", "channels"],
)
def test_the_student_matches_the_guided_teacher(name: str, overrides: list[str], channels: int | None) -> None:
    spec, low = lowered(name, *overrides)
    given, oracle = request(low), Interpreter(low.module, weights_of(low, 0.2))
    process, classes = spec.objective.base.process, spec.data.classes
    t = given["t"]
    bar = process.alphas_cumprod[t]
    x_t = column(np.sqrt(bar)) * given["x"] + column(np.sqrt(1 - bar)) * given["noise"]
    teacher, student = (network(low, oracle, n) for n in ("teacher", "main"))
    c, u = teacher(x_t, t, y=given["y"]), teacher(x_t, t, y=np.full(3, classes))
    target = c.copy()
    w = column(given.get("guidance", np.full(3, 2.5)))
    target[:, :channels] = (u + w * (c - u))[:, :channels]
    told = {n: given[n] for n in ("y", "guidance") if n in given}
    wanted = np.mean((student(x_t, t, **told) - target) ** 2)
    (found,) = oracle.run("loss", *given.values())
    assert wanted > 1e-3 and found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("weighting", ["none", "snr_plus_one", "truncated_snr"])
@pytest.mark.parametrize("predicts", ["velocity", "noise", "x0"])
def test_a_step_of_the_student_ends_where_two_of_the_teacher_do(predicts: str, weighting: str) -> None:
    """Algorithm 2 of Salimans and Ho, at the first and second step of the last round."""
    overrides = [*ROUNDS, f"objective.base.predicts={predicts}", f"objective.weighting={weighting}"]
    spec, low = lowered("digits_distilled", *overrides)
    given, oracle = request(low), Interpreter(low.module, weights_of(low, 0.2))
    bar = np.append(spec.objective.base.process.alphas_cumprod, 1.0)  # index -1: the data
    start, middle, end = np.array([[999, 749, 499], [999, 749, 499], [499, 249, -1]]).T  # drawn steps 0, 1, 2 of 4
    told = {"y": given["y"], "guidance": given["guidance"]}

    def alpha_sigma(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return column(np.sqrt(bar[t])), column(np.sqrt(1 - bar[t]))

    def of_x0(x0: np.ndarray, z: np.ndarray, t: np.ndarray) -> np.ndarray:
        a, s = alpha_sigma(t)
        noise = (z - a * x0) / s
        return {"x0": x0, "noise": noise, "velocity": a * noise - s * x0}[predicts]

    def x0_of(out: np.ndarray, z: np.ndarray, t: np.ndarray) -> np.ndarray:
        a, s = alpha_sigma(t)
        return {"x0": out, "noise": (z - s * out) / a, "velocity": a * z - s * out}[predicts]

    def ddim(x0: np.ndarray, z: np.ndarray, t: np.ndarray, to: np.ndarray) -> np.ndarray:
        (a, s), (a_to, s_to) = alpha_sigma(t), alpha_sigma(to)
        return a_to * x0 + s_to / s * (z - a * x0)

    teacher, student = (network(low, oracle, n) for n in ("teacher", "main"))
    a, s = alpha_sigma(start)
    z = a * given["x"] + s * given["noise"]
    z_middle = ddim(x0_of(teacher(z, start, **told), z, start), z, start, middle)
    z_end = ddim(x0_of(teacher(z_middle, middle, **told), z_middle, middle), z_middle, middle, end)
    a_end, s_end = alpha_sigma(end)
    x0 = (z_end - s_end / s * z) / (a_end - s_end / s * a)
    out, snr = student(z, start, **told), a**2 / s**2
    if weighting == "none":
        wanted = np.mean((out - of_x0(x0, z, start)) ** 2)
    else:
        weight = snr + 1 if weighting == "snr_plus_one" else np.maximum(snr, 1)
        wanted = np.mean(weight * (x0_of(out, z, start) - x0) ** 2)
    (found,) = oracle.run("loss", *given.values())
    assert found == pytest.approx(wanted, rel=1e-5)


def test_rounds_take_the_steps_of_the_sampler_on_a_flow() -> None:
    """With Euler's method the student's velocity is the mean of the teacher's two."""
    _, low = lowered("digits_distilled", *FLOW)
    given, oracle = request(low), Interpreter(low.module, weights_of(low, 0.2))
    start = np.array([0.0, 0.0, 0.5])
    x_t = column(start) * given["x"] + column(1 - start) * given["noise"]
    told = {"y": given["y"], "guidance": given["guidance"]}
    teacher, student = (network(low, oracle, n) for n in ("teacher", "main"))
    first = teacher(x_t, start, **told)
    second = teacher(x_t + 0.25 * first, start + 0.25, **told)
    wanted = np.mean((student(x_t, start, **told) - (first + second) / 2) ** 2)
    (found,) = oracle.run("loss", *given.values())
    assert found == pytest.approx(wanted, rel=1e-6)


def in_float32(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array.astype("f4") if array.dtype.kind == "f" else array)


@pytest.mark.parametrize(
    "name", ["digits_guided", "digits_distilled", "dit_guidance_distillation", "dit_progressive_distillation"]
)
def test_emitted_losses_are_the_interpreters(name: str, tmp_path: Path) -> None:
    spec, low = lowered(name)
    given, weights = request(low), weights_of(low, 0.2)
    (wanted,) = Interpreter(low.module, weights).run("loss", *given.values())
    with emitted(low, spec, tmp_path / "project") as project, torch.no_grad():
        (update,) = project.objective.UPDATES
        models = []
        for net in update.networks:
            models.append(project.model.NETWORKS[net]())
            own = {k.removeprefix(f"{net}."): in_float32(v) for k, v in weights.items() if k.startswith(f"{net}.")}
            models[-1].load_state_dict({k: own.get(k, v) for k, v in models[-1].state_dict().items()})
        found = update.loss(*models, **{k: in_float32(v) for k, v in given.items()})
        drawn = update.draws(1000, torch.Generator().manual_seed(0))
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    low_w, high_w = spec.conditioning["guidance"].range
    assert low_w <= drawn["guidance"].min() < drawn["guidance"].mean() < drawn["guidance"].max() <= high_w


def test_a_copy_starts_with_the_predictions_of_its_teacher() -> None:
    """The layer that embeds the scale ends in zeros."""
    _, low = lowered("digits_guided")
    params = parameters(low.module, low.networks["main"].methods["forward"].function)
    assert params["guidance_embedder.fc2.weight"].init.kind == "zeros"


REFUSED = [
    ("digits_guided", ["networks.teacher.pretrained=null"], "needs trained weights"),
    ("digits_guided", ["networks.teacher.frozen=false"], "must be frozen"),
    ("digits_guided", ["objective.base={kind: flow, coupling: {kind: upsampled}}"], "this coupling starts elsewhere"),
    (
        "digits_guided",
        ["objective={kind: hybrid_distillation, variance: 0, base: {kind: diffusion, further: [contrast]}}"],
        "used, so its `further` has no effect",
    ),
    ("digits_guided", ["objective.scale=2"], "condition `guidance` also sets"),
    ("digits_guided", ["objective.channels=2"], "2 channels are guided"),
    ("digits_guided", ["conditioning.class.dropout=0"], "trained with dropped conditions"),
    ("digits_guided", ["conditioning.guidance.default=9"], "9 is outside the range"),
    ("digits_guided", ["conditioning.guidance.range=[3, 2]"], "scales from 3 to 2"),
    ("digits_guided", ["conditioning.strength={kind: guidance_scale}"], "only one guidance scale"),
    ("digits_guided", ["sampler.guidance={scale: 2}"], "without its conditions"),
    ("digits_guided", ["networks.teacher.conditions=[style]"], "no condition `style`"),
    ("digits_guided", ["networks.main.copy_of=tutor"], "network `tutor` does not exist"),
    ("digits_guided", ["networks.main.copy_of=main"], "is this network itself"),
    ("digits_guided", ["networks.main.pretrained=a.safetensors"], "already says what it starts from"),
    ("digits_dit", ["conditioning.guidance={kind: guidance_scale}"], "does not train a network"),
    ("digits_distilled", ["objective.rounds=[9, 4]"], "4 steps are not half of the 9"),
    ("digits_distilled", ["objective.rounds=[0]"], "is 0, but must be greater than 0"),
    ("digits_distilled", ["sampler.steps=8"], "the sampler takes 8 steps, but the last round has 4"),
    ("digits_distilled", ["sampler=null"], "needs a sampler whose steps it halves"),
    ("digits_distilled", ["sampler.spacing=even"], "every second"),
    ("digits_distilled", ["sampler={kind: heun, steps: 4, spacing: trailing}"], "of `heun` is not an affine function"),
    ("digits_distilled", ["sampler.eta=1"], "of `ddim` is not an affine function"),
    ("digits_distilled", ["sampler.clip=1"], "of `ddim` is not an affine function"),
    ("digits_distilled", ["train.steps=3", "train.schedule.warmup=0"], "each of the 4 rounds needs a step"),
    ("digits_distilled", ["networks.teacher.conditions=[class]"], "`teacher` and `main` take different conditions"),
]


@pytest.mark.parametrize(("name", "overrides", "said"), REFUSED, ids=[said for _, _, said in REFUSED])
def test_what_does_not_fit_is_told(name: str, overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        load_spec(name, overrides=overrides)
    assert said in str(refused.value)


def test_missing_weights_of_the_teacher_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiagnosticError, match="starts from the weights in digits-dit/runs/train/weights"):
        api.train("digits_guided")
    assert not (tmp_path / "digits-guided").exists()


def test_the_engine_needs_the_student_alone_and_takes_the_scale(tmp_path: Path) -> None:
    _, low = lowered("digits_distilled")
    weights = weights_of(low, 0.2, networks=("main",))
    student = {name.removeprefix("main."): Array(a.astype("f4")) for name, a in weights.items()}
    write_safetensors(tmp_path / "student.safetensors", student)
    api.compile("digits_distilled", tmp_path / "student.safetensors", tmp_path / "bundle", overrides=SMALL)
    pipe = latentc_runtime.load(tmp_path / "bundle")
    (setting,) = pipe.manifest.settings
    assert (setting.name, setting.default, setting.low, setting.high) == ("guidance", 1.25, 1.0, 3.0)
    usual, same, other = (pipe.sample([1, 2], seeds=0, **more) for more in ({}, {"guidance": 1.25}, {"guidance": 3}))
    assert np.array_equal(usual, same) and np.abs(usual - other).max() > 1e-4
