"""Inputs of programs as code: the functions of sampler.py give what the runtime gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentc.emit.inputs import draw_imports, inputs_function
from latentc_runtime import noise, rare_distributions
from latentc_runtime.distributions import DISTRIBUTIONS
from latentc_runtime.sources import ConditionSource, Given, Input, RandomSource, SettingSource, input_array

MODULES = {"noise": noise, "rare_distributions": rare_distributions}
PARAMETERS: dict[str, Any] = {"low": 0.25, "high": 0.75, "weights": (1.0, 2.0, 3.0), "probability": 0.3}
GIVEN = Given(
    np.arange(3, dtype=np.uint64),
    {"class": np.arange(3)},
    {"text": np.array([[True, False]] * 3)},
    {"truncation": np.array([0.5, 1.0, np.inf]), "guidance": np.array([0.1, 1.5, 4.0])},
)


def computed(inputs: list[Input], settable: bool = False, **given: int) -> dict[str, Any]:
    """The inputs as the emitted function gives them; those of each step stacked."""
    scope = {n: getattr(MODULES[module], n) for module, names in draw_imports(inputs).items() for n in names}
    exec(inputs_function("sample", inputs, settable), {**scope, "Given": Given, "Any": Any}, scope)
    found = scope["sample_inputs"](GIVEN, **given)
    return {n: np.stack([*map(a[1], range(a[0]))]) if isinstance(a, tuple) else a for n, a in found.items()}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_draws(name: str) -> None:
    parameters = {p: PARAMETERS.get(p, 1.0) for p in DISTRIBUTIONS[name].parameters}
    parameters |= {"high": 5} if name == "integers" else {}
    once = RandomSource(name, "x", None, parameters)
    steps = RandomSource(name, "step", 4, parameters)
    dtype: Any = DISTRIBUTIONS[name].dtype
    inputs = [Input("x", dtype, ("B", 2, 3), once), Input("in", dtype, (4, "B", 5), steps)]
    found = computed(inputs)
    assert list(found) == ["x", "in_"]
    for entry, array in zip(inputs, found.values(), strict=True):
        expected = input_array(entry, GIVEN)
        assert array.dtype.kind == expected.dtype.kind
        assert np.array_equal(array.astype(expected.dtype), expected)


def test_conditions_settings_and_rows() -> None:
    inputs = [
        Input("y", "i64", ("B",), ConditionSource("class")),
        Input("mask", "bool", ("B", 2), ConditionSource("text", "mask")),
        Input("scale", "f32", ("B",), SettingSource("guidance")),
        Input("z", "f32", ("B", 4), RandomSource("truncated_normal", "z", settings={"bound": "truncation"})),
        Input("noise", "f32", (7, "B", 2), RandomSource("normal", "step", 7)),
        Input("u", "f32", (7, "B"), RandomSource("uniform", "u", 7)),
    ]
    for entry, array in zip(inputs, computed(inputs).values(), strict=True):
        expected = input_array(entry, GIVEN)
        assert np.array_equal(array.astype(expected.dtype), expected), entry.name
    more = computed(inputs, settable=True, rows=9)
    assert more["noise"].shape == (9, 3, 2) and more["u"].shape == (9, 3)
    assert np.array_equal(more["noise"][:7], input_array(inputs[4], GIVEN))
