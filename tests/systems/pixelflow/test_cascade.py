"""PixelFlow beside its authors' numbers: other counts of stages and times, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import weights_of
from scipy.integrate import solve_ivp

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.pixelflow.cascade_parts import Cascade

TINY = [
    *("data={kind: npz, path: x.npz, classes: 5, shape: [3, 8, 8]}", "backbone.width=16", "backbone.depth=1"),
    *("backbone.patch=2", "backbone.block.mixer.heads=2", "conditioning.time.frequencies=16", "sampler.steps=4"),
]


@pytest.mark.parametrize(("count", "steps", "stage"), [(10, 700, 7), (15, 600, 11), (4, 1000, 3)])
def test_stages_end_at_whole_times(count: int, steps: int, stage: int) -> None:
    """The authors divide the stage by their number first, so that rounding may leave it below a whole time."""
    whole = int(steps * (stage / count))
    assert Cascade(count, steps, -1 / 3).end(stage - 1) == pytest.approx(whole / steps, rel=1e-6)


def test_one_stage_is_a_flow() -> None:
    spec = load_spec("pixelflow", None, [*TINY, "backbone.stages=1", "objective.stages=1", "sampler.guidance=null"])
    lowered = lower(spec)
    network, rng = lowered.networks["main"], np.random.default_rng(0)
    oracle = Interpreter(lowered.module, weights_of(lowered, 0.2, rng))
    x, y = rng.standard_normal((2, 3, 8, 8)), np.array([1, 4])
    (made,) = oracle.run(lowered.programs[0].entry, x, y)

    def velocity(x: np.ndarray, told: float) -> np.ndarray:
        given = {"x": x, "t": np.full(2, told), "y": y, "side": np.full(2, 4.0)}
        method = network.methods["forward"]
        return np.asarray(oracle.run(method.function, *(given[port.name] for port in method.inputs), prefix="main")[0])

    times = np.linspace(0, 0.999, 4)
    for t, step in zip(times, np.diff(times, append=1.0), strict=True):
        x = x + step * velocity(x, 1000 * t)
    assert np.max(np.abs(made - x)) < 1e-8 * np.max(np.abs(x))


def test_features_that_keep_their_width_need_blocks_that_take_it() -> None:
    text = (
        "data={kind: npz, path: x.npz, shape: [3, 8, 8], fields: {text: {shape: [5, 8]}, "
        "text_mask: {shape: [5], dtype: bool}}}"
    )
    told = ("conditioning={text: {kind: features, projection: none}, time: {kind: timestep}}", "sampler.guidance=null")
    with pytest.raises(DiagnosticError, match="`text` join those of the network, which have 1152 channels, but have 8"):
        lower(load_spec("pixart", None, [text, "conditioning.caption=null", *told]))


def test_stages_that_choose_their_steps() -> None:
    """Two stages, the second guided in part, by scipy; networks are told the last whole time at the end of a stage."""
    sampler = "{kind: cascade, adaptive: {norm: batch}, guidance: {scale: 3, weights: [0, 0.5]}}"
    spec = load_spec("pixelflow", None, [*TINY[:-1], "backbone.stages=2", "objective.stages=2", f"sampler={sampler}"])
    lowered = lower(spec)
    network, rng = lowered.networks["main"], np.random.default_rng(0)
    oracle = Interpreter(lowered.module, weights_of(lowered, 0.1, rng))
    (program,), cascade = lowered.programs, spec.objective.cascade  # type: ignore[union-attr]
    given = {"x": rng.standard_normal((2, 3, 4, 4)), "y": np.array([1, 4]), "scale": np.array([3.0, 2.0])}
    given["noise_1"] = rng.standard_normal((2, 3, 4, 4, 4))
    made, count = oracle.run(program.entry, *(given[name] for name in program.sources))
    evaluations, x = 0, given["x"]
    for stage, gain in ((0, 0.0), (1, 0.5)):
        if stage:
            mb = ModuleBuilder()
            b = mb.function("between")
            held = b.input("x", f32(B, 3, 4, 4)), b.input("noise", f32(B, 3, 4, 4, 4))
            b.output(cascade.enlarged(b, *held, stage))
            mb.entries["between"] = b.finish()
            (x,) = Interpreter(mb.finish()).run("between", x, given["noise_1"])
        method = network.methods["forward" if stage else "stage_0"]
        shift, scale = cascade.network_time(stage)

        def rate(t: float, v: np.ndarray) -> np.ndarray:
            state, told = v.reshape(x.shape), np.full(2, shift + scale * 0.999 * t)  # noqa: B023
            side = np.full(2, float(cascade.side(network, stage)))  # noqa: B023
            outs = []
            for y in (given["y"], np.full(2, 5)):
                ports = {"x": state, "t": told, "y": y, "side": side}
                ins = (ports[port.name] for port in method.inputs)  # noqa: B023
                outs.append(np.asarray(oracle.run(method.function, *ins, prefix="main")[0]))  # noqa: B023
            weight = 1 + (given["scale"][:, None, None, None] - 1) * gain  # noqa: B023
            return (outs[1] + weight * (outs[0] - outs[1])).ravel()

        found = solve_ivp(rate, (0, 1), x.ravel(), rtol=1e-3, atol=1e-6)
        evaluations, x = evaluations + found.nfev, found.y[:, -1].reshape(x.shape)
    assert np.all(count == evaluations)
    assert np.max(np.abs(made - x)) < 1e-8 * np.max(np.abs(x))


def test_a_side_that_stages_cannot_halve_is_refused() -> None:
    change = ["data.shape=[3, 24, 24]", "backbone.patch=3", "sampler.guidance=null"]
    with pytest.raises(DiagnosticError, match="24 cannot be halved 4 times"):
        load_spec("pixelflow", None, [*TINY, *change])
