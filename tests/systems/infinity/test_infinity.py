"""Multi-scale bits and bitwise self-correction as the authors' code computes them, and contradictions."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import grad
from parity_data import LIMIT, error, excess, load
from tiny_systems import SYSTEMS

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.infinity.bits import BitScales
from latentc.systems.infinity.multi_scale_bits import MultiScaleBits
from latentc.systems.infinity.next_scale_bits_objective import NextScaleBits, margins

SCALES = BitScales((1, 2, 4), 8)


def run(build, *given: np.ndarray) -> list[np.ndarray]:
    """What `build` returns, given a builder and inputs of the types of these arrays."""
    mb = ModuleBuilder()
    b = mb.function("f")
    made = build(b, *(b.input(f"x{i}", f32(B, *array.shape[1:])) for i, array in enumerate(given)))
    b.output(*(made if isinstance(made, tuple) else (made,)))
    mb.entries["f"] = b.finish("Part.")
    return Interpreter(mb.finish(), {}, "f64").run("f", *given)


@pytest.mark.parametrize("name", ["infinity.bsq", "infinity.bsq_train"])
def test_multi_scale_bits(name):
    numbers = load(name)
    bottleneck = MultiScaleBits(kind="multi_scale_bits", channels=8, scales=SCALES.sides)
    methods = [bottleneck.mode, lambda b, h, s: bottleneck.regularized(b, h, None, s)[0]]
    for method in methods:
        (found,) = run(lambda b, x, method=method: method(b, x, {}), numbers.inputs["x"])
        assert error(found, numbers.outputs["out.quantized"]) < 1e-6
        assert excess(found, numbers.outputs["out.quantized"], name) <= LIMIT


def test_bits_of_the_data():
    """Without wrong bits, those of training are those of the authors' quantiser."""
    numbers = load("infinity.bsq")
    objective = NextScaleBits(kind="next_scale_bits", flips=0.0)
    _, bits = run(lambda b, x: objective.inputs_and_bits(b, SCALES, x, None, None), numbers.inputs["x"])
    wanted = [numbers.outputs[f"out.bits.{k}"].reshape(2, -1, 8) for k in range(3)]
    assert np.array_equal(bits, np.concatenate(wanted, axis=1))


def test_self_correction():
    numbers = load("infinity.bsc")
    objective = NextScaleBits(kind="next_scale_bits", corrected=2)
    strength = np.tile(numbers.inputs["strength"] * 0.01, (2, 1))
    v = np.concatenate([noise.reshape(2, -1, 8) for noise in numbers.noise], axis=1)
    inputs, bits = run(
        lambda b, x, u, v: objective.inputs_and_bits(b, SCALES, x, u, v), numbers.inputs["x"], strength, v
    )
    wanted = [numbers.outputs[f"out.targets.{k}"] for k in range(3)]
    assert np.array_equal(bits, np.concatenate(wanted, axis=1))
    assert error(inputs, numbers.outputs["out.inputs"]) < 1e-6
    assert excess(inputs, numbers.outputs["out.inputs"], numbers.name) <= LIMIT


def test_bitwise_loss():
    numbers = load("infinity.transformer")
    objective = NextScaleBits(kind="next_scale_bits", balance=False)
    logits, bits = numbers.outputs["out.logits"], numbers.inputs["bits"].astype(np.float64)
    (losses,) = run(lambda b, logits, bits: objective.losses(b, SCALES, margins(b, logits, 8), bits), logits, bits)
    assert error(losses.mean(), numbers.outputs["out.loss"]) < 1e-6


def test_balanced_loss():
    """Positions count as 1 / side of their scale, and their weights have a mean of 1."""
    objective = NextScaleBits(kind="next_scale_bits")
    margin, bits = np.zeros((1, 21, 8)), np.zeros((1, 21, 8))
    (losses,) = run(lambda b, margin, bits: objective.losses(b, SCALES, margin, bits), margin, bits)
    weights = np.repeat([1, 1 / 2, 1 / 4], [1, 4, 16])
    np.testing.assert_allclose(losses[0, :, 0], np.log(2) * weights / weights.mean(), rtol=1e-6)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(-1)


def test_gradients_pass_to_unit_vectors():
    """At one scale the latents follow the unit vector of x, and the penalty is that of its entropies."""
    bottleneck = MultiScaleBits(kind="multi_scale_bits", channels=3, scales=[1], commitment=0.5, entropy=0.2)
    x = np.random.default_rng(0).normal(size=(2, 3, 1, 1))
    mb = ModuleBuilder()
    b = mb.function("f")
    b.output(*bottleneck.regularized(b, b.input("x", f32(B, 3, 1, 1)), None, {}))
    mb.entries["f"] = b.finish("Part.")
    module, name = grad(mb.finish(), "f", (0,))
    (found,) = Interpreter(module, {}, "f64").run(name, x)
    step, expected = 1e-6, np.zeros_like(x)
    for i in np.ndindex(x.shape):
        moved = [x.copy(), x.copy()]
        moved[0][i] += step
        moved[1][i] -= step
        expected[i] = (unit(moved[0]).sum() - unit(moved[1]).sum()) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    z = unit(x)[..., 0, 0]
    p = 1 / (1 + np.exp(-4 * z / np.sqrt(3)))
    pull = ((z - np.where(z > 0, 1, -1) / np.sqrt(3)) ** 2).mean(1)
    _, penalty = Interpreter(mb.finish(), {}, "f64").run("f", x)
    np.testing.assert_allclose(penalty, 0.5 * pull + 0.2 * (entropy(p) - entropy(p.mean(0))), rtol=1e-6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("networks.main.scales=[1, 2]", "takes latents"),
        ("networks.main.levels=2", "too few for 3 scales"),
        ("networks.main.chunks=3", "do not divide 2 blocks"),
        ("networks.main.grid=2", "the grid has 2 rows"),
        ("networks.main.block.condition={kind: adaln_zero}", "enters by cross-attention"),
        ("conditioning.caption={kind: features}", "has only tokens"),
        ("conditioning.caption.head_width=3", "no heads of 3"),
        ("objective.corrected=3", "none is left that could correct"),
        ("sampler.weights=[1, 1]", "2 values for 3 scales"),
        ("sampler.temperature=[1, 1]", "2 values for 3 scales"),
        ("networks.main.block.mixer.heads=8", "must be divisible by 4"),
    ],
)
def test_contradictions_are_refused(override, message):
    with pytest.raises(DiagnosticError, match=message):
        lower(load_spec("infinity", overrides=[*SYSTEMS["infinity"].sizes, override]))
