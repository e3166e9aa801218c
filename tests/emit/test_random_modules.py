"""Whatever passes `verify` is emitted, as free functions and as classes, and gives what the interpreter gives."""

from __future__ import annotations

import sys
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_module import REPOSITORY, loaded, side_file, tensors

from latentc.emit.functions import Functions
from latentc.emit.helpers import helper_source
from latentc.emit.model import imports, networks_file
from latentc.ir.core import Module, parameters

sys.path.insert(0, str(REPOSITORY / "tests" / "passes"))

from random_modules import Generator, inputs_of, results_of, weights_of


@pytest.fixture(autouse=True)
def float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def compared(text: str, actual: Any, expected: Any) -> None:
    actual = actual if isinstance(actual, tuple) else (actual,)
    assert len(actual) == len(expected), text
    for a, e in zip(actual, expected, strict=True):
        assert tuple(a.shape) == e.shape and a.is_floating_point() == (e.dtype.kind == "f"), text
        assert np.allclose(a.double().numpy(), e.astype(np.float64), rtol=1e-8, atol=1e-8), text


def check_free(module: Module) -> None:
    weights = weights_of(module)
    expected = results_of(module, weights)
    functions = Functions(module)
    names = {entry: functions.add(fn) for entry, fn in module.entries.items()}
    body = "\n\n".join([helper_source(list(functions.helpers)), *functions.texts])
    scope = loaded("\n".join([*imports(body), body]), torch.float64, **side_file(functions.constants))
    for entry, name in names.items():
        fn = module.entry(entry)
        held = [{k: torch.tensor(v) for k, v in weights.items()}] if functions.has_weights(fn.name) else []
        compared(body, scope[name](*held, *tensors(inputs_of(module, entry), torch.float64)), expected[entry])


def check_classes(module: Module) -> None:
    """Each entry as a network of its own."""
    weights = weights_of(module)
    expected = results_of(module, weights)
    for entry, fn in module.entries.items():
        file = networks_file(module, {"main": [fn]})
        text = file.text
        model = loaded(text, torch.float64, **side_file(file.constants))["build"]().double().eval()
        model.load_state_dict({k: torch.tensor(weights[k]) for k in parameters(module, fn)})
        with torch.no_grad():
            compared(text, model(*tensors(inputs_of(module, entry), torch.float64)), expected[entry])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_free_functions(seed: int) -> None:
    check_free(Generator(Random(seed), varied=True).module())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_classes(seed: int) -> None:
    check_classes(Generator(Random(seed), varied=True).module())
