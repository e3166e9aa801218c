"""Consistency models and their adapters: losses and sampler against the papers' formulas, what is refused."""

from __future__ import annotations

import ast
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from emitted import emitted
from forked import python
from random_weights import weights_of
from safetensors.torch import load_file

from latentc.api import emit
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower, lower_networks
from latentc.spec import load_spec
from latentc.systems.ccm.controls import control_points
from latentc.systems.consistency.growth import Growth

SMALL = ("networks.main.width=16", "networks.main.depth=3", "networks.main.block.mixer.heads=2")
EDM = "objective.base={kind: diffusion, process: {kind: edm}, predicts: preconditioned}"
TRAINING = "objective={kind: consistency_training, steps: 8, levels: {}, weighting: inverse_step}"
COUNT, STD, LEAST = 4, 0.5, 0.002
FACTORS = (("low", 4), ("fine", 2))
RNG = np.random.default_rng(2)
X, NOISE = RNG.standard_normal((2, COUNT, 1, 8, 8))
Y, NULL = np.array([3, 1, 4, 9]), np.full(COUNT, 10)


class System:
    """A lowered spec with random weights, its networks as functions."""

    def __init__(self, name: str, *overrides: str) -> None:
        self.spec, self.low = lowered(name, *overrides)
        self.weights = weights_of(self.low, 0.3)
        self.oracle = Interpreter(self.low.module, self.weights)

    def call(self, network: str, x: np.ndarray, t: np.ndarray, *more: np.ndarray) -> list[np.ndarray]:
        return list(self.oracle.run(self.low.networks[network].main.function, x, t, *more, prefix=network))

    def run(self, entry: str, **given: Any) -> np.ndarray:
        names = [v.name for v in self.low.module.entry(entry).inputs]
        return np.asarray(self.oracle.run(entry, *(given[name] for name in names))[0])


@cache
def lowered(name: str, *overrides: str) -> tuple[Any, Lowered]:
    spec = load_spec(name, overrides=[*SMALL, *overrides])
    return spec, lower(spec)


def column(a: Any) -> np.ndarray:
    return np.asarray(a, float)[:, None, None, None]


def karras(steps: int) -> np.ndarray:
    """The noise levels of a grid, of the EDM paper."""
    ends = np.linspace(80 ** (1 / 7), LEAST ** (1 / 7), steps + 1)
    return np.asarray(ends**7)


def consistency(system: System, network: str, x: np.ndarray, s: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """f of the consistency paper's appendix C, on EDM's network F."""
    out = system.call(network, x / np.sqrt(column(s) ** 2 + STD**2), np.log(s) / 4, *more)[0]
    skip = STD**2 / ((s - LEAST) ** 2 + STD**2)
    return column(skip) * x + column((s - LEAST) * STD / np.sqrt(s**2 + STD**2)) * out


def test_training_without_a_teacher() -> None:
    """Improved consistency training: log-normal levels, pseudo-Huber distance, the weight 1 over the step."""
    system = System("digits_consistency", TRAINING, EDM)
    levels = karras(8)
    cdf = [0.5 * math.erf((math.log(s) + 1.1) / (2 * math.sqrt(2))) for s in levels]
    probability = -np.diff(cdf) / (cdf[0] - cdf[-1])
    u = np.array([0.02, 0.3, 0.6, 0.99])
    pairs = [int(np.searchsorted(np.cumsum(probability), value)) for value in u]
    first, second = levels[pairs], levels[np.array(pairs) + 1]
    y = np.where(np.array([0.5, 0.05, 0.5, 0.5]) < 0.1, NULL, Y)
    ends = [consistency(system, "main", X + column(s) * NOISE, s, y) for s in (first, second)]
    square, c = ((ends[0] - ends[1]) ** 2).sum(axis=(1, 2, 3)), 0.00054 * 8
    wanted = np.mean((np.sqrt(square + c**2) - c) / (first - second))
    found = system.run("loss", x=X, y=Y, u=u, noise=NOISE, drop=np.array([0.5, 0.05, 0.5, 0.5]))
    assert len(set(pairs)) > 2 and found == pytest.approx(wanted, rel=1e-6)


def test_grids_of_ever_more_steps() -> None:
    """Their numbers of steps, by the formulas of both papers, in every step of training."""

    def doubling(k: int, first: int, last: int, total: int) -> int:
        period = math.floor(total / (math.log2(math.floor(last / first)) + 1))
        return min(first * 2 ** (k // period), last)

    def square_root(k: int, first: int, last: int, total: int) -> int:
        square = k / total * ((last + 1) ** 2 - first**2) + first**2
        return max(math.ceil(math.sqrt(square) - 1), 1)

    for rule in (doubling, square_root):
        for first, last, total in ((10, 1280, 4000), (2, 150, 997), (3, 20, 100)):
            grids = Growth(first=first, rule=rule.__name__).grids(last, total)
            found = [[count for start, count in grids if start <= k][-1] for k in range(total)]
            assert found == [rule(k, first, last, total) for k in range(total)]


@pytest.mark.parametrize("levels", ["null", "{}"])
def test_training_on_grids_of_ever_more_steps(levels: str) -> None:
    growth = ["objective.growth={first: 2, over: 30}", "conditioning.class.dropout=0", f"objective.levels={levels}"]
    system, u = System("digits_consistency", TRAINING, EDM, *growth), np.array([0.02, 0.3, 0.6, 0.99])
    for step, count in ((0, 2), (9, 2), (10, 4), (29, 8), (99, 8)):
        grid = karras(count)
        cdf = [0.5 * math.erf((math.log(s) + 1.1) / (2 * math.sqrt(2))) for s in grid]
        probability = -np.diff(cdf) / (cdf[0] - cdf[-1]) if levels != "null" else np.full(count, 1 / count)
        pairs = np.searchsorted(np.cumsum(probability), u)
        first, second = grid[pairs], grid[pairs + 1]
        ends = [consistency(system, "main", X + column(s) * NOISE, s, Y) for s in (first, second)]
        square, c = ((ends[0] - ends[1]) ** 2).sum(axis=(1, 2, 3)), 0.00054 * 8
        wanted = np.mean((np.sqrt(square + c**2) - c) / (first - second))
        found = system.run("loss", x=X, y=Y, u=u, noise=NOISE, training_step=step)
        assert found == pytest.approx(wanted, rel=1e-6)


def test_an_average_that_slows_as_grids_get_steps(tmp_path: Path) -> None:
    """Its decay by the formula of the published code, and the weights of a run by it."""
    rule = "growth: {first: 2, rule: square_root}"
    training = TRAINING.replace("}, weighting", "}, target: target, " + rule + ", weighting")
    own = ["networks.teacher=null", "networks.main.copy_of=null", "networks.target.decay=0.9"]
    own += ["networks.target.by_grids=true", "train.steps=20", "train.batch_size=4", "train.schedule.warmup=0"]
    emit("digits_consistency", tmp_path / "project", overrides=[*SMALL, training, EDM, *own])
    python(tmp_path / "project", "train.py", "--steps", "2", "--checkpoint_every", "1", "--out", "run")
    kept = [load_file(tmp_path / f"project/run/checkpoints/step-0000000{k}/networks.safetensors") for k in (1, 2)]
    trained = [name for name in kept[0] if name.startswith("target")]
    assert trained and len(trained) * 2 == len(kept[0])
    for name in trained:
        source = kept[1][name.replace("target", "main", 1)]
        assert torch.allclose(kept[1][name], torch.lerp(kept[0][name], source, 1 - 0.9), atol=1e-7)  # a grid of 2 steps
    text = (tmp_path / "project" / "train.py").read_text()
    (found,) = (node for node in ast.parse(text).body if getattr(node, "name", "") == "decay_of")
    made: dict[str, Any] = {"Any": Any}
    exec(ast.unparse(found), made)
    role = yaml.safe_load((tmp_path / "project/config.yaml").read_text())["roles"]["target"]
    for k in range(20):
        steps = max(math.ceil(math.sqrt(k / 20 * (9**2 - 2**2) + 2**2) - 1), 1)
        assert made["decay_of"](role, k) == pytest.approx(math.exp(2 * math.log(0.9) / steps))


def test_a_perceptual_distance() -> None:
    """LPIPS of where both states lead to, on enlarged images."""
    lpips = "networks.perceptual={kind: lpips, width: 4, resize: 16, pooling: average, pretrained: vgg.safetensors}"
    system = System("digits_consistency", EDM, lpips, "objective.steps=8", "objective.distance=perceptual")
    levels, pair = karras(8), np.array([0, 2, 5, 6])
    states = X + column(levels[pair]) * NOISE
    f = consistency(system, "main", states, levels[pair], Y)
    told = {"x": X, "y": Y, "pair": pair, "noise": NOISE}
    end = _distilled(system, states, levels, pair)
    (wanted,) = system.oracle.run(system.low.networks["perceptual"].main.function, f, end, prefix="perceptual")
    assert system.run("loss", **told) == pytest.approx(wanted.mean(), rel=1e-5) and wanted.min() > 0.01
    assert system.low.updates[0].networks == ("main",)


def _distilled(system: System, x_t: np.ndarray, levels: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Where the target says that the teacher's step leads to."""
    s, r = levels[pair], levels[pair + 1]
    deviation = np.sqrt(s**2 + STD**2)
    given, without = (system.call("teacher", x_t / column(deviation), np.log(s) / 4, y)[0] for y in (Y, NULL))
    out = without + 1.25 * (given - without)
    d = (x_t - column(STD**2 / deviation**2) * x_t - column(s * STD / deviation) * out) / column(s)
    return consistency(system, "target", x_t + column(r - s) * d, r, Y)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_distillation_by_a_guided_teacher(solver: str) -> None:
    """The target leads on from where the teacher's step of the probability-flow ODE ends."""
    options = ("steps=8", "stride=2", f"solver={solver}", "distance=l2", "scale=2.0")
    system = System("digits_consistency", EDM, *(f"objective.{option}" for option in options))
    levels, pair = karras(8), np.array([0, 2, 5, 6])
    s, r = levels[pair], levels[pair + 2]

    def slope(x: np.ndarray, s: np.ndarray) -> np.ndarray:
        """dx/ds of the teacher, guided."""
        deviation = np.sqrt(s**2 + STD**2)
        given, without = (system.call("teacher", x / column(deviation), np.log(s) / 4, y)[0] for y in (Y, NULL))
        out = without + 2.0 * (given - without)
        return (x - column(STD**2 / deviation**2) * x - column(s * STD / deviation) * out) / column(s)

    x_t = X + column(s) * NOISE
    d = slope(x_t, s)
    x_s = x_t + column(r - s) * d
    if solver == "heun":
        x_s = x_t + column(r - s) / 2 * (d + slope(x_s, r))
    wanted = np.mean((consistency(system, "main", x_t, s, Y) - consistency(system, "target", x_s, r, Y)) ** 2)
    assert system.run("loss", x=X, y=Y, pair=pair, noise=NOISE) == pytest.approx(wanted, rel=1e-6)
    assert system.low.updates[0].networks == ("main",)


def test_the_sampler_jumps_and_adds_noise() -> None:
    system = System("digits_consistency", EDM, "sampler.steps=3")
    z, levels = RNG.standard_normal((3, COUNT, 1, 8, 8)), karras(3)
    x = 80.0 * X
    for i, s in enumerate(levels[:-1]):
        data = consistency(system, "main", x, np.full(COUNT, s), Y)
        x = data + math.sqrt(levels[i + 1] ** 2 - LEAST**2) * z[i] if i < 2 else data
    np.testing.assert_allclose(system.run("sample.3", x=X, y=Y, noise=z), x, rtol=0, atol=1e-6 * abs(x).max())


class Controlled(System):
    """The shipped adapter: its network's outputs added to those of the first two blocks."""

    def schedule(self, t: Any) -> tuple[np.ndarray, np.ndarray]:
        bar = self.spec.objective.base.process.alphas_cumprod[np.asarray(t, int)]
        return column(np.sqrt(bar)), column(np.sqrt(1 - bar))

    def end(self, adapter: str, x: np.ndarray, t: np.ndarray, *told: np.ndarray) -> np.ndarray:
        out = self.call("main", x, t, Y, *self.call(adapter, x, t, Y, *told))[0]
        (alpha, sigma), (_, least) = self.schedule(t), self.schedule(np.zeros(COUNT))
        s, e = sigma / alpha, least / self.schedule(np.zeros(COUNT))[0]
        skip = STD**2 * (1 / ((s - e) ** 2 + STD**2) - (1 - e / s) / (s**2 + STD**2))
        return np.asarray(skip * x / alpha + (1 - e / s) * (alpha * x - sigma * out))


def test_an_adapter_learns_by_consistency_training() -> None:
    system = Controlled("digits_controlled", "objective.steps=5", "objective.distance=l1")
    times, pair, drop = np.array([999, 799, 599, 399, 199, 0.0]), np.array([0, 2, 3, 4]), np.ones(COUNT)
    low = X.reshape(COUNT, 1, 2, 4, 2, 4).mean(axis=(3, 5))
    states = []
    for adapter, t in (("adapter", times[pair]), ("target", times[pair + 1])):
        alpha, sigma = system.schedule(t)
        states.append(system.end(adapter, alpha * X + sigma * NOISE, t, low))
    wanted = np.mean(np.abs(states[0] - states[1]))
    assert system.run("loss", x=X, y=Y, pair=pair, noise=NOISE, drop=drop) == pytest.approx(wanted, rel=1e-6)
    assert system.low.updates[0].networks == ("adapter",) and set(system.low.sampled) == {"main", "adapter"}


def test_one_adapter_learns_several_conditions_in_turn() -> None:
    """Each sample is told one of them, with zeros in place of the other, unless that one is dropped, too."""
    options = ("networks.adapter.in_turn=[low, fine]", "objective.steps=5", "objective.distance=l1")
    low, fine = (f"conditioning.{name}={{kind: low_resolution, factor: {n}, dropout: 0.1}}" for name, n in FACTORS)
    system = Controlled("digits_controlled", low, fine, *options)
    pair, turn = np.full(COUNT, 3), np.array([0, 1, 1, 0])
    times = [np.full(COUNT, float(t)) for t in (399, 199)]
    told = []
    for (_, n), given in zip(FACTORS, ([1, 0, 0, 0], [0, 1, 1, 0]), strict=True):
        told.append(X.reshape(COUNT, 1, 8 // n, n, 8 // n, n).mean(axis=(3, 5)) * column(given))
    states = []
    for adapter, t in zip(("adapter", "target"), times, strict=True):
        alpha, sigma = system.schedule(t)
        states.append(system.end(adapter, alpha * X + sigma * NOISE, t, *told))
    drops = {"drop": np.ones(COUNT), "drop_low": np.array([1, 1, 1, 0.05]), "drop_fine": np.ones(COUNT)}
    found = system.run("loss", x=X, y=Y, pair=pair, noise=NOISE, turn=turn, **drops)
    assert found == pytest.approx(np.mean(np.abs(states[0] - states[1])), rel=1e-6)
    assert [d.parameters for d in system.low.updates[0].draws if d.name == "turn"] == [{"high": 2}]


def test_an_adapter_of_a_u_net_adds_to_skips_and_middle(tmp_path: Path) -> None:
    """As ControlNet does: what the adapter says of the encoder's outputs reaches the decoder alone."""
    unet = "kind: unet, width: 8, multipliers: [1, 2], blocks: 1, block: {groups: 4, heads: 2}, conditions: [class]"
    overrides = [f"networks.main={{{unet}, pretrained: unet.safetensors}}", "networks.adapter={kind: adapter}"]
    spec = load_spec("digits_controlled", overrides=overrides)
    x, t, y, low = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0]), torch.tensor([1, 4]), torch.randn(2, 1, 2, 2)
    with emitted(lower(spec), spec, tmp_path) as project, torch.no_grad():
        main, adapter = (project.model.NETWORKS[name]() for name in ("main", "adapter"))
        for p in (*main.parameters(), *adapter.parameters()):
            p.normal_(std=0.2)

        def encoded(network: Any, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
            c = network.embedder(t, y)
            skips = [network.in_conv(x)]
            for block in (network.enc[0][0], network.down[0], network.enc[1][0]):
                skips.append(block(skips[-1], c))
            return network.mid_1(network.mid_0(skips[-1], c), c), skips

        middle, skips = encoded(adapter, torch.cat([x, low.repeat_interleave(4, 2).repeat_interleave(4, 3)], 1))
        wanted = [getattr(adapter, f"control_{i}").conv(h) for i, h in enumerate((*skips, middle))]
        controls = adapter.control(x, t, y, low)
        assert len(controls) == 5 and all(
            torch.allclose(a, b, atol=1e-5) for a, b in zip(controls, wanted, strict=True)
        )
        c, (h, skips) = main.embedder(t, y), encoded(main, x)
        h, left = h + controls[4], [skip + control for skip, control in zip(skips, controls[:4], strict=True)]
        for block in (*main.dec[1], main.up[0], *main.dec[0]):
            h = block(h, c) if block is main.up[0] else block(torch.cat([h, left.pop()], dim=1), c)
        h = main.out_conv(torch.nn.functional.silu(main.out_norm(h)))
        assert torch.allclose(main(x, t, y, *controls), h, atol=1e-5)


@pytest.mark.parametrize("name", ["edm2", "interpolant_sr"])
def test_other_u_nets_have_points_of_control(name: str) -> None:
    low = lower_networks(load_spec(name), verified=False)
    points = control_points(low.module.functions[low.networks["main"].main.function])
    assert len(points) > 8 and all(point.reader is not None and point.value.type.rank == 4 for point in points)


def test_several_adapters_add_up_and_start_at_zero() -> None:
    """Blocks return what they do without an adapter, plus what every adapter says of them."""
    more = "networks.second={kind: adapter, blocks: 1, conditions: [class]}"
    system = System("digits_controlled", more)
    low, t = RNG.standard_normal((COUNT, 1, 2, 2)), np.array([9.0, 300.0, 500.0, 999.0])
    controls = system.call("adapter", X, t, Y, low) + system.call("second", X, t, Y)
    names = [port.name for port in system.low.networks["main"].main.inputs_of("control")]
    assert names == ["adapter_0", "adapter_1", "second_0"] and system.low.updates[0].networks == ("adapter", "second")
    out = system.call("main", X, t, Y, *controls)[0]
    swapped = system.call("main", X, t, Y, controls[2], controls[1], controls[0])[0]
    np.testing.assert_allclose(out, swapped, atol=1e-9)
    plain = System("digits_consistency")
    plain.oracle = Interpreter(plain.low.module, system.weights)
    without = system.call("main", X, t, Y, *(0 * control for control in controls))[0]
    np.testing.assert_allclose(without, plain.call("main", X, t, Y)[0], atol=1e-9)
    assert abs(out - without).max() > 0.01
    own = parameters(system.low.module, system.low.networks["second"].main.function)
    assert [p.init.kind for path, p in own.items() if "controls" in path] == ["zeros", "zeros"]


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("digits_consistency", ["sampler={kind: ddim, steps: 2}"], "`ddim` takes single steps"),
        ("digits_dit", ["sampler={kind: consistency}"], "`consistency` needs a network trained to jump"),
        ("digits_consistency", ["objective.stride=50"], "pairs are 50 steps apart"),
        ("digits_consistency", ["objective.growth={first: 50}"], "the first grid has 50 steps, but the last has 50"),
        ("digits_consistency", ["objective.growth={first: 2}", "objective.stride=3"], "pairs are 3 steps apart"),
        ("digits_consistency", ["objective.growth={rule: square_root}", "objective.steps=999"], "in total, more than"),
        ("digits_consistency", ["networks.target.by_grids=true"], "these do not grow"),
        ("digits_consistency", ["objective.distance=perceptual"], "perceptual"),
        (
            "digits_consistency",
            ["networks.perceptual={kind: lpips}"],
            "images of 8 by 8 pixels cannot be halved four times",
        ),
        ("digits_consistency", ["objective.target=teacher"], "not an average of `main`"),
        ("digits_consistency", ["objective.base.self_conditioning=0.5"], "so its `self_conditioning` has no effect"),
        (
            "digits_consistency",
            ["objective.solver=heun", "objective.base={kind: flow}"],
            "cannot start at an infinite noise level",
        ),
        ("digits_consistency", ["networks.teacher.pretrained=null"], "network `teacher` needs trained weights"),
        ("digits_consistency", ["objective.spacing=karras", "objective.steps=2000"], "the same time twice"),
        ("digits_controlled", ["networks.main.pretrained=null"], "which this adapts, has no weights"),
        ("digits_controlled", ["networks.adapter.network=target"], "not an architecture to adapt"),
        ("digits_controlled", ["networks.adapter.blocks=9"], "cannot be adapted here"),
        ("digits_controlled", ["networks.adapter.in_turn=[low, high]"], "does not take condition `high`"),
        ("digits_controlled", ["networks.adapter.in_turn=[class, low]"], "network `main` also takes `class`"),
        ("digits_controlled", ["networks.adapter.in_turn=[low]"], "`dropout` is 0"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec(name, overrides=overrides)
