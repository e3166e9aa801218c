"""Smoothness similarity: the term written out, its limit, its part in training, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted
from parity_data import error
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SIZES = ("width=4", "embedding=6", "latent_dim=8")
SMALL = [f"networks.{name}.{size}" for name in ("main", "source") for size in SIZES]
SMALL += ["networks.discriminator.width=4", "data.classes=3"]


def made(*overrides: str) -> tuple[Any, Any, Any, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The spec, what it is lowered to, the generator's update, random weights, and the update's random inputs."""
    spec = load_spec("digits_few_shot", None, [*SMALL, *overrides])
    low, rng = lower(spec), np.random.default_rng(1)
    update = next(u for u in low.updates if u.name == "generator")
    given = {"z": rng.standard_normal((5, 8)), "labels": np.array([0, 2, 1, 1, 2])}
    given["direction"] = rng.standard_normal((5, 8))
    weights = {n: np.abs(a) + 0.1 if n.endswith("running_var") else a for n, a in weights_of(low, 0.4, 2).items()}
    return spec, low, update, weights, given


def modules(project: Any, weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """The emitted networks in float64 and evaluation mode."""
    nets = {name: build().double().eval() for name, build in project.model.NETWORKS.items()}
    for name, net in nets.items():
        own = {k: torch.tensor(weights[f"{name}.{k}"]) for k in net.state_dict() if f"{name}.{k}" in weights}
        net.load_state_dict(net.state_dict() | own)
    return nets


def test_the_term_is_that_written_out(tmp_path: Path) -> None:
    spec, low, update, weights, given = made("objective.terms=[hinge, {kind: smoothness, weight: 3, step: 0.2}]")
    assert [draw.name for draw in update.draws] == list(given)
    assert update.networks == ("main",)
    found = Interpreter(low.module, weights, float_dtype="f64").run(update.loss, *given.values())
    with emitted(low, spec, tmp_path / "project") as project:
        nets = modules(project, weights)
        z, y, v = (torch.tensor(a) for a in given.values())
        score = -nets["discriminator"](nets["main"](z, y)).mean()

        def responses(net: Any) -> list[torch.Tensor]:
            pairs = zip(net.features(z + 0.2 * v, y), net.features(z, y), strict=True)
            return [(after - before) / 0.2 for after, before in pairs]

        levels = list(zip(*(responses(nets[name]) for name in ("main", "source")), strict=True))
        assert [tuple(a.shape) for a, _ in levels] == [(5, 8, 4, 4), (5, 8, 8, 8)]
        term = sum((a - b).abs().mean() for a, b in levels)
        wanted = torch.stack([score + 3 * term, score, term]).detach().numpy()
        assert error(np.stack(found), wanted) < 1e-6
        own = project.objective.UPDATES[-1]
        out = own.loss(*(nets[n] for n in own.networks), z=z, labels=y, direction=v)
        assert error(np.array([float(x) for x in out]), wanted) < 1e-9
        out[2].backward()
        assert all(p.grad is None or not p.grad.any() for p in nets["source"].parameters())
        assert any(p.grad is not None and p.grad.any() for p in nets["main"].parameters())


def test_a_small_step_gives_the_derivative(tmp_path: Path) -> None:
    spec, low, update, weights, given = made("objective.terms=[hinge, {kind: smoothness, step: 1e-5}]")
    *_, found = Interpreter(low.module, weights, float_dtype="f64").run(update.loss, *given.values())
    with emitted(low, spec, tmp_path / "project") as project:
        nets = modules(project, weights)
        z, y, v = (torch.tensor(a) for a in given.values())
        along = [torch.func.jvp(lambda x, n=n: nets[n].features(x, y), (z,), (v,))[1] for n in ("main", "source")]
        wanted = sum((a - b).abs().mean() for a, b in zip(*along, strict=True))
    assert float(found) == pytest.approx(float(wanted), rel=1e-3)


def test_the_source_itself_has_no_error() -> None:
    _, low, update, weights, given = made()
    weights |= {n.replace("source.", "main."): a for n, a in weights.items() if n.startswith("source.")}
    loss, score, term = Interpreter(low.module, weights, float_dtype="f64").run(update.loss, *given.values())
    assert term == 0 and loss == score


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["networks.source.pretrained=null"], "network `source` is not frozen"),
        (["networks.source=null"], "source"),
        (["networks.source.width=8"], "layers of `main` and `source` differ"),
        (["networks.main.kind=resnet_generator"], "features"),
    ],
)
def test_what_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        lower(load_spec("digits_few_shot", None, overrides))
