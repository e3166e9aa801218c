"""Sigmoids are as exact, relative to their value, as the rest of a graph; gates stay what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundles import tiny_bundle
from tiny_systems import SYSTEMS

from latentc.engines import ENGINES
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Module, walk
from latentc.ir.types import B, f32
from latentc.ir.verify import verify
from latentc.measure.execute import runner
from latentc.passes.sigmoid import exact_sigmoid
from latentc_runtime.backends import open_backend

X = -np.linspace(0, 30, 300, dtype=np.float32).reshape(3, 100)


def module_of(build) -> Module:
    mb = ModuleBuilder()
    b = mb.function("f")
    x = b.input("x", f32(B, 100))
    b.output(build(b, x))
    mb.entries["f"] = b.finish("")
    return verify(mb.finish())


def value(b: Builder, x: Var) -> Var:
    return b.sigmoid(x, out="density")


def gate(b: Builder, x: Var) -> Var:
    return b.mul(b.sigmoid(x, out="gate"), x)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_small_values_are_right_to_their_last_digits(engine: str) -> None:
    pytest.importorskip(engine)
    module = module_of(value)
    if ENGINES[engine].sigmoid == "written_out":
        module = verify(exact_sigmoid(module, "fp32"))
    (got,) = runner(module, "f", {}, backend=open_backend("cpu", 1, engine))([X])
    want = 1 / (1 + np.exp(-X.astype(np.float64)))
    assert np.abs(got / want - 1).max() < 1e-6


def test_gates_and_half_precision_keep_the_operator() -> None:
    assert exact_sigmoid(gates := module_of(gate), "fp32") is gates
    assert exact_sigmoid(densities := module_of(value), "fp16") is densities
    both = exact_sigmoid(module_of(lambda b, x: b.add(y := b.sigmoid(x), b.mul(y, x))), "fp32")
    assert "sigmoid" not in {node.op for _, node in walk(both)}


def test_a_field_that_is_almost_empty_is_verified(tmp_path: Path) -> None:
    """Densities of 1e-4, of one point each."""
    pytest.importorskip("torch")
    from latentc.verify.run import verify as verified

    tiny = SYSTEMS["cond_cbnt"]
    path = tiny_bundle(tiny.spec, tmp_path / "bundle", tiny.sizes, weights={"main.field.leave.bias": -9.0})
    report = verified(path)
    assert report.ok, report.text()
