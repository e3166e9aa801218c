"""Every op's text against the interpreter, on random operands; and whole generators of other kinds."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_module import REPOSITORY, error, loaded, side_file, tensors

from latentc.emit.functions import Functions
from latentc.emit.helpers import helper_source
from latentc.emit.model import imports, networks_file
from latentc.emit.ops import TORCH
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import CALLS, Module, parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OPS

sys.path.insert(0, str(REPOSITORY / "tests" / "ir"))

import op_cases
import test_generality as generality

# A training op of a module (`self.training`); literals are printed in place.
EMITTED = {name for name, row in OPS.items() if not row.engine_only}
FREE = sorted(EMITTED - {"dropout", "constant"})


def functions_text(functions: Functions) -> str:
    body = "\n\n".join([helper_source(list(functions.helpers)), *functions.texts])
    return "\n".join([*imports(body), body])


def test_every_op_has_a_row() -> None:
    assert set(TORCH) == EMITTED - {"constant"}


@pytest.mark.parametrize("op", FREE)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_row(op: str, data: st.DataObject) -> None:
    case = op_cases.CASES[op](op_cases.Draw(data))
    mb = ModuleBuilder()
    b = mb.function("f")
    b.output(b.op(op, *(b.input("x", o.type) for o in case.operands), **case.attrs))
    mb.entries["f"] = b.finish()
    module = mb.finish()
    functions = Functions(module)
    functions.add("f")
    f = loaded(functions_text(functions), torch.float64, **side_file(functions.constants))["f"]
    arrays = [o.array for o in case.operands]
    actual = f(*tensors(arrays, torch.float64))
    expected = Interpreter(module).run("f", *arrays)
    for a, e in zip(actual if isinstance(actual, tuple) else (actual,), expected, strict=True):
        assert tuple(a.shape) == e.shape
        assert np.allclose(a.double().numpy(), e.astype(np.float64), rtol=1e-9, atol=1e-9), functions.texts


def emitted_is_interpreted(module: Module, inputs: Any, reference: Any) -> None:
    """Takes the place of `generality.check`: the emitted networks and sampler give what the interpreter gives."""
    rng = np.random.default_rng(7)
    weights = {
        path: rng.standard_normal(tuple(map(int, p.type.shape))) * 0.4
        for path, p in parameters(module, module.entries["sample"]).items()
    }
    functions = Functions(module)
    functions.add(module.entries["sample"], "sample")
    networks: dict[str, list[str]] = {}
    for name in functions.networks(module.entries["sample"]):
        networks[name] = methods_of(module, name)
    made = loaded(networks_file(module, networks).text, torch.float64)["NETWORKS"] if networks else {}
    models: list[Any] = []
    for name in networks:
        model = made[name]().double()
        own = {path: torch.tensor(weights[f"{name}.{path}"]) for path in model.state_dict()}
        model.load_state_dict(own)
        models.append(model)
    sample = loaded(functions_text(functions), torch.float64, **side_file(functions.constants), tqdm=lambda x, **_: x)[
        "sample"
    ]
    if functions.has_weights(module.entries["sample"]):
        models.append({path: torch.tensor(w) for path, w in weights.items()})
    arrays = [np.asarray(x) for x in inputs]
    with torch.no_grad():
        actual = sample(*models, *tensors(arrays, torch.float64))
    expected = Interpreter(module, weights).run("sample", *arrays)
    for a, e in zip(actual if isinstance(actual, tuple) else (actual,), expected, strict=True):
        assert error(a, e) < 1e-9


def methods_of(module: Module, network: str) -> list[str]:
    """Functions that are called under a network's name."""
    found: dict[str, None] = {}
    for fn in module.functions.values():
        for node in fn.nodes if fn.origin is None else ():
            origin = module.functions[node.attrs["fn"]].origin if node.op in CALLS else None
            if origin is not None and node.attrs["name"] == network:
                found[node.attrs["fn"]] = None
    return list(found)


KINDS = [
    name
    for name, test in vars(generality).items()
    if name.startswith("test_")
    and name != "test_the_comparison_can_fail"
    and callable(test)
    and not inspect.signature(test).parameters
]


@pytest.fixture
def float64() -> Iterator[None]:
    """Literal numbers in float64 too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_other_generators(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generality, "check", emitted_is_interpreted)
    getattr(generality, kind)()
