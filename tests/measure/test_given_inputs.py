"""Arrays for one run of a network or a loss: what may be left out, and what is said of what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_systems import SYSTEMS

from latentc import api
from latentc.checkpoint import network_types
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.types import FLOATS, NUMPY
from latentc.lower import lower
from latentc.spec import load_spec

RNG = np.random.default_rng(0)


def arrays(values: Any) -> dict[str, Any]:
    """Random arrays for two samples; integers are 0."""
    shapes = {v.name: ([d if isinstance(d, int) else 2 for d in v.type.shape], v.type.dtype) for v in values}
    return {
        name: RNG.standard_normal(shape).astype("f4") if dtype in FLOATS else np.zeros(shape, NUMPY[dtype])
        for name, (shape, dtype) in shapes.items()
    }


def weights(lowered: Lowered, network: str = "main") -> dict[str, Any]:
    types = network_types(lowered, network)
    prefix = f"{network}." if len(lowered.networks) > 1 else ""
    return {f"{prefix}{n}": 0.1 * RNG.standard_normal(shape).astype("f4") for n, (shape, _) in types.items()}


@pytest.mark.parametrize("backend", ["oracle", "torch", "onnx"])
def test_inputs_that_a_method_does_not_read_may_be_left_out(backend: Any) -> None:
    """MeanFlow's improved head predicts from the interval alone, so the time is not read."""
    system = SYSTEMS["improved_mean_flow"]
    lowered = lower(load_spec(system.spec, system.variant, system.sizes))
    given = arrays(lowered.module.functions[lowered.networks["main"].methods["forward"].function].inputs)
    options: dict[str, Any] = {"variant": system.variant, "overrides": system.sizes}
    own = weights(lowered)
    whole = api.forward(system.spec, own, given, backend, **options)
    without = {name: array for name, array in given.items() if name != "t"}
    np.testing.assert_array_equal(api.forward(system.spec, own, without, backend, **options), whole)
    assert np.abs(whole).max() > 0
    del without["x"]
    with pytest.raises(DiagnosticError, match="the input `x` is missing") as caught:
        api.forward(system.spec, own, without, backend, **options)
    assert len(caught.value.diagnostics) == 1


def test_a_loss_lists_its_inputs() -> None:
    lowered = lower(load_spec("digits_dit"))
    given, own = arrays(lowered.module.entry(lowered.updates[0].loss).inputs), weights(lowered)
    missing = {name: array for name, array in given.items() if name not in ("t", "drop")}
    with pytest.raises(DiagnosticError) as caught:
        api.loss("digits_dit", own, missing)
    first, last = caught.value.diagnostics
    assert first.help is None and last.help is not None
    assert "x: f32[B, 1, 8, 8] (data)" in last.help and "t: i64[B] (drawn: integers from 0 to 999)" in last.help
    assert "condition `class` is dropped below 0.1; 1 keeps it" in last.help
    null = np.full(2, load_spec("digits_dit").data.classes)  # the index that stands for no class
    kept = [float(api.loss("digits_dit", own, {**given, "y": y, "drop": np.ones(2)})["loss"]) for y in (null * 0, null)]
    gone = float(api.loss("digits_dit", own, {**given, "drop": np.zeros(2)})["loss"])
    assert kept[0] != kept[1] == gone
