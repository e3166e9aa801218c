"""Group norms by moments per channel: the same function, also far from zero; in float32 alone."""

import numpy as np
import pytest
from ir_parse import module_from_text
from random_modules import results_of
from test_cleanup import HEADER

from latentc.ir.core import walk
from latentc.ir.interpret import Interpreter
from latentc.ir.verify import verify
from latentc.passes.decompose import group_norm_by_channels


def norm_of(shape: str, affine: str = "%g, %s"):
    inputs = "".join(f", {name}: f32[6]" for name in affine.split(", ") if name)
    text = f"""
entry f = "f"

fn "f" (%x: f32[{shape}]{inputs}) {{
  %y: f32[{shape}] = group_norm({", ".join(filter(None, ("%x", affine)))}) {{eps=1e-05, groups=2}}
  return %y
}}
"""
    return verify(module_from_text(HEADER + text))


@pytest.mark.parametrize("affine", ["%g, %s", "%g", ""])
@pytest.mark.parametrize("shape", ["B, 6, 5", "B, 6, 5, 4", "B, 6, 3, 2, 2"])
def test_moments_per_channel_are_the_same_function(shape: str, affine: str) -> None:
    before = norm_of(shape, affine)
    after = verify(group_norm_by_channels(before, "fp32"))
    assert {node.op for _, node in walk(after)}.isdisjoint({"group_norm", "layer_norm"})
    for p, q in zip(results_of(before, {})["f"], results_of(after, {})["f"], strict=True):
        assert np.allclose(p, q, rtol=1e-12, atol=1e-12)


def test_a_mean_far_from_zero_costs_no_more_digits_than_in_the_operator() -> None:
    """E[x²] - E[x]² in float32 would leave none: 1000² has 7 digits before the variance of 1 begins."""
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((2, 6, 8, 8)) + 1000, rng.standard_normal(6), rng.standard_normal(6)]
    before = norm_of("B, 6, 8, 8")
    narrow = [a.astype(np.float32) for a in inputs]
    (want,) = Interpreter(before, {}, "f64").run("f", *(a.astype(np.float64) for a in narrow))
    (got,) = Interpreter(group_norm_by_channels(before, "fp32"), {}, "f32").run("f", *narrow)
    assert got.dtype == np.float32
    assert np.abs(got - want).max() < 1e-3


@pytest.mark.parametrize(("shape", "precision"), [("B, 6, 5, 4", "bf16"), ("B, 6, 5, 4", "fp16")])
def test_half_precision_keeps_the_operator(shape: str, precision) -> None:
    before = norm_of(shape)
    assert group_norm_by_channels(before, precision) is before


@pytest.mark.parametrize("space", [(5,), (5, 4)])
def test_a_residual_of_elementwise_ops_compiles_in_openvino(space: tuple[int, ...]) -> None:
    """With the operator, OpenVINO 2026.4 has a segmentation fault while it compiles this."""
    from latentc.measure.execute import runner
    from latentc_runtime.backends import open_backend

    shape = ", ".join(map(str, ("B", 6, *space)))
    text = f"""
entry f = "f"

fn "f" (%x: f32[{shape}]) {{
  %r: f32[{shape}] = relu(%x)
  %n: f32[{shape}] = group_norm(%r) {{eps=1e-05, groups=2}}
  %y: f32[{shape}] = add(%r, %n)
  return %y
}}
"""
    module = verify(module_from_text(HEADER + text))
    x = np.random.default_rng(0).standard_normal((2, 6, *space)).astype(np.float32)
    (want,) = Interpreter(module, {}, "f64").run("f", x.astype(np.float64))
    (got,) = runner(group_norm_by_channels(module, "fp32"), "f", {}, backend=open_backend("cpu", engine="openvino"))(
        [x]
    )
    assert np.allclose(got, want, atol=1e-5)
