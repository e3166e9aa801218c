"""Easy consistency tuning: the loss in its stages against the paper's formula, its gradients, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from emitted import emitted
from test_consistency import COUNT, NOISE, NULL, RNG, STD, System, X, Y, column

from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec

JUMPS = "sampler={kind: consistency, steps: 2, guidance: null}"
U = np.array([-1.5, 0.2, 0.8, 1.9])


def tuning(*options: str) -> tuple[str, ...]:
    return f"objective={{{', '.join(('kind: easy_consistency_tuning', *options))}}}", JUMPS


def denoised(system: System, x: np.ndarray, s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """EDM's D, on the network F."""
    deviation = np.sqrt(s**2 + STD**2)
    out = system.call("main", x / column(deviation), np.log(s) / 4, y)[0]
    return column(STD**2 / deviation**2) * x + column(s * STD / deviation) * out


@pytest.mark.parametrize("c", [0.0, 0.03])
def test_levels_move_together_stage_by_stage(c: float) -> None:
    """Both ends of a pair in each stage, those whose lower level is 0 included, and after the last stage."""
    system = System("digits_dit", *tuning("stages: 3", "over: 31", "q: 4", "k: 8", "b: 0.5", f"c: {c}"))
    drop, t = np.array([0.5, 0.05, 0.5, 0.5]), np.exp(2.0 * U - 1.1)
    y, clipped = np.where(drop < 0.1, NULL, Y), []
    for step, stage in ((0, 0), (9, 0), (10, 1), (19, 1), (20, 2), (30, 2), (999, 2)):
        r = np.maximum(t * (1 - 4.0 ** -(stage + 1) * (1 + 8 / (1 + np.exp(0.5 * t)))), 0.0)
        clipped.append(int(np.sum(r == 0)))
        lower_end = denoised(system, X + column(r) * NOISE, np.where(r > 0, r, 1.0), y)
        wanted = np.where(column(r) > 0, lower_end, X)
        square = ((denoised(system, X + column(t) * NOISE, t, y) - wanted) ** 2).sum(axis=(1, 2, 3))
        expected = np.mean((np.sqrt(square + c**2) - c) / (t - r))
        found = system.run("loss", x=X, y=Y, u=U, noise=NOISE, drop=drop, training_step=step)
        assert found == pytest.approx(expected, rel=1e-6)
    assert 0 < clipped[0] < COUNT and clipped[-1] == 0  # both cases are there


def test_a_single_stage_needs_no_step() -> None:
    """As the authors' shorter recipe, with q = 256."""
    system = System("digits_dit", *tuning("stages: 1", "q: 256"), "conditioning.class.dropout=0")
    update = system.low.updates[0]
    names = {value.name for value in system.low.module.entry(update.loss).inputs}
    assert names == {"x", "y", "u", "noise"} and update.networks == ("main",)
    t = np.exp(2.0 * U - 1.1)
    r = t * (1 - (1 + 8 / (1 + np.exp(t))) / 256)
    ends = [denoised(system, X + column(s) * NOISE, s, Y) for s in (t, r)]
    wanted = np.mean(np.sqrt(((ends[0] - ends[1]) ** 2).sum(axis=(1, 2, 3))) / (t - r))
    assert system.run("loss", x=X, y=Y, u=U, noise=NOISE) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("step", [0, 1])
def test_gradients_at_level_0_and_at_equal_ends(step: int, tmp_path: Path) -> None:
    """They are those of the upper end alone, and finite where a level is 0 or the two ends are equal."""
    options = ("backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2")
    spec = load_spec("digits_dit", overrides=[*options, *tuning("stages: 2", "over: 2")])
    y, drop, u = torch.tensor(Y), torch.ones(COUNT), torch.tensor(U, dtype=torch.float32)
    x, noise = torch.tensor(RNG.standard_normal((2, COUNT, 1, 8, 8)), dtype=torch.float32)
    with emitted(lower(spec), spec, tmp_path / "project") as project:
        torch.manual_seed(0)
        net = project.model.NETWORKS["main"]().eval()
        (update,) = project.objective.UPDATES

        def gradients(x: torch.Tensor, noise: torch.Tensor) -> list[torch.Tensor]:
            told = {"y": y, "u": u, "drop": drop, "training_step": torch.tensor(step)}
            loss = update.loss(net, x=x, noise=noise, **told)
            return list(torch.autograd.grad(loss, list(net.parameters())))

        zero = torch.zeros_like(x)
        assert all(torch.isfinite(g).all() for g in gradients(zero, zero))  # F is 0, so both ends are
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.2)
        t = torch.exp(2 * u - 1.1)
        r = (t * (1 - 0.5 ** (step + 1) * (1 + 8 * torch.sigmoid(-t)))).clamp(min=0)

        def end(s: torch.Tensor) -> torch.Tensor:
            level = s[:, None, None, None]
            deviation = torch.sqrt(level**2 + STD**2)
            state = x + level * noise
            out = net(state / deviation, torch.log(s) / 4, y)
            return STD**2 / deviation**2 * state + level * STD / deviation * out

        with torch.no_grad():
            wanted = torch.where(r[:, None, None, None] > 0, end(r.clamp(min=1e-3)), x)
        loss = (((end(t) - wanted) ** 2).sum(dim=(1, 2, 3)).sqrt() / (t - r)).mean()
        expected = torch.autograd.grad(loss, list(net.parameters()))
        for found, g in zip(gradients(x, noise), expected, strict=True):
            assert torch.allclose(found, g, rtol=1e-3, atol=1e-4 * float(g.abs().max()))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ((*tuning(), "sampler={kind: heun, steps: 2}"), "`heun` takes single steps"),
        (tuning("stages: 3", "q: 256"), "`q` to the power of 3 stages is more than"),
        (tuning("process: {kind: discrete}"), "discrete"),
        ((*tuning(), "backbone.pretrained=edm.safetensors", "backbone.frozen=true"), "nothing is trained"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("digits_dit", overrides=list(overrides))
