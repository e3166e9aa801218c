"""Shortcut models beyond what was recorded: guided half steps against the paper's formulas, PyTorch, refusals."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_weights import weights_of

from latentc import api
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

SMALL = ("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2")
SMALL += ("conditioning.time.frequencies=16", "conditioning.step_size={kind: step_size, finest: 4, frequencies: 16}")
GUIDED = ("objective.guidance=1.5", "objective.clip=1.2")
COUNT = 6


@cache
def lowered(*overrides: str) -> tuple[Any, Lowered]:
    spec = load_spec("digits_shortcut", overrides=[*SMALL, *overrides])
    return spec, lower(spec)


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "x": rng.standard_normal((COUNT, 1, 8, 8)),
        "y": rng.integers(0, 10, COUNT),
        "level": np.array([0, 1, 1, 0, 1, 0]),
        "share": np.array([0.1, 0.2, 0.9, 0.8, 0.24, 0.26]),
        "u": rng.random(COUNT),
        "noise": rng.standard_normal((COUNT, 1, 8, 8)),
        "drop": np.array([0.05, 0.5, 0.05, 0.5, 0.5, 0.5]),
    }


def expected(spec: Any, main: Any, target: Any, given: dict[str, np.ndarray]) -> float:
    """The loss, sample by sample: steps of 1 or 1/2 from two halves, of which quarters are guided; others are flows."""
    o, errors = spec.objective, []
    for i in range(COUNT):
        x1, x0, y = (given[name][i : i + 1] for name in ("x", "noise", "y"))
        halved = given["share"][i] < o.bootstrap
        n = 2 ** given["level"][i] if halved else 4
        t = np.floor(given["u"][i] * n) / n
        x_t, v = (1 - (1 - 1e-5) * t) * x0 + t * x1, x1 - (1 - 1e-5) * x0
        if halved:
            bound = o.clip or np.inf

            def half(x: np.ndarray, t: float, n: int = n, y: np.ndarray = y) -> np.ndarray:
                of = [target(x, np.array([t]), label, np.array([0.5 / n])) for label in (y, np.array([10]))]
                return of[1] + o.guidance * (of[0] - of[1]) if o.guidance and n == 2 else of[0]

            first = half(x_t, t)
            second = half(np.clip(x_t + first * 0.5 / n, -bound, bound), t + 0.5 / n)
            v = np.clip((first + second) / 2, -bound, bound)
        elif given["drop"][i] < 0.1:
            y = np.array([10])
        errors.append(np.mean((main(x_t, np.array([t]), y, np.array([1 / n])) - v) ** 2))
    return float(np.mean(errors))


@pytest.mark.parametrize("overrides", [(), GUIDED], ids=["plain", "guided"])
def test_the_loss_is_the_papers(overrides: tuple[str, ...]) -> None:
    spec, low = lowered(*overrides)
    oracle = Interpreter(low.module, weights_of(low, 0.3))
    given = batch()

    def network(name: str) -> Any:
        return lambda *operands: oracle.run(low.networks[name].methods["forward"].function, *operands, prefix=name)[0]

    found = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))[0]
    assert found == pytest.approx(expected(spec, network("main"), network("target"), given), rel=1e-6)


def test_pytorch_computes_the_same_loss(tmp_path: Path) -> None:
    _, low = lowered(*GUIDED)
    files = {name: tmp_path / f"{name}.safetensors" for name in ("main", "target")}
    weights = {name: array.astype(np.float32) for name, array in weights_of(low, 0.3).items()}
    for name, file in files.items():
        own = {key.removeprefix(f"{name}."): Array(a) for key, a in weights.items() if key.startswith(f"{name}.")}
        write_safetensors(file, own)
    given = {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in batch().items()}
    named = [f"{name}={file}" for name, file in files.items()]
    ours, torch = (
        api.loss("digits_shortcut", named, given, backend, overrides=[*SMALL, *GUIDED])
        for backend in ("oracle", "torch")
    )
    assert torch["loss"] == pytest.approx(float(ours["loss"]), rel=1e-5)


def test_other_samplers_take_steps_of_the_least_size() -> None:
    _, low = lowered("sampler={kind: euler, steps: 3, guidance: null}")
    oracle = Interpreter(low.module, weights_of(low, 0.3))
    x, y = batch()["x"], batch()["y"]
    z = x
    for t in range(3):
        operands = z, np.full(COUNT, t / 3), y, np.full(COUNT, 1 / 4)
        z = z + oracle.run(low.networks["main"].methods["forward"].function, *operands, prefix="main")[0] / 3
    (found,) = oracle.run("sample.3", x, y)
    assert np.abs(found - z).max() < 1e-9 * np.abs(z).max()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["conditioning.step_size=null"], "does not take the size of its step"),
        (["conditioning.step_size.finest=6"], "is no power of two"),
        (["sampler.steps=3"], "the sampler takes 3"),
        (["sampler.steps=64"], "the sampler takes 64"),
        (["objective.guidance=2", "conditioning.class.dropout=0"], "no condition is ever dropped"),
        (["networks.target={kind: like, pretrained: a.safetensors}"], "is no average of `main`"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_shortcut", overrides=overrides)
    assert any(says in one.message for one in caught.value.diagnostics), caught.value
