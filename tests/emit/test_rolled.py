"""Repeated methods and statements: one method of a number, one function, one loop."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_systems import SYSTEMS
from torch_module import error, loaded, random_weights, tensors

from latentc.emit.functions import Functions
from latentc.emit.model import model_source
from latentc.emit.numbered import families, joined, method_of, runs
from latentc.emit.outcome import Unknown, outcome
from latentc.emit.outlined import outlined
from latentc.emit.rolled import rolled
from latentc.ir.core import Function
from latentc.ir.interpret import Interpreter
from latentc.ir.types import Sym
from latentc.lower import lower
from latentc.spec import load_spec


def scales(count: int, strength: str = "k / 4") -> list[str]:
    """A sampler's statements, once per scale."""
    lines = ["a_0, a_1, a_2, a_3 = a.split((1, 4, 9, 16), dim=1)"]
    for k in range(count):
        suffix = f"_{k + 1}" if k else ""
        lines += [
            f"h = model.scale_k({k}, x)  # [B, {(k + 1) ** 2}]",
            f"h = h * {eval(strength, {'k': k})!r}",
            f"token{suffix} = h + a_{k}",
            f"x = x + token{suffix}",
        ]
    names = ", ".join(f"token_{k + 1}" if k else "token" for k in range(count))
    return [*lines, f"return torch.cat([{names}], dim=1)"]


def test_statements_that_repeat_are_a_loop() -> None:
    assert rolled(scales(4), ["model", "x", "a"], 4) == [
        "a_0, a_1, a_2, a_3 = a.split((1, 4, 9, 16), dim=1)",
        "new_tokens = []",
        "for k, a_k in enumerate((a_0, a_1, a_2, a_3)):",
        "    h = model.scale_k(k, x)",
        "    h = h * (k / 4)",
        "    token = h + a_k",
        "    x = x + token",
        "    new_tokens.append(token)",
        "return torch.cat([*new_tokens], dim=1)",
    ]


def test_numbers_of_no_formula_stand_in_a_row() -> None:
    lines = rolled(scales(4, "(0.5, 0.25, 0.3, 0.7)[k]"), ["model", "x", "a"], 4)
    assert "for k, (n_k, a_k) in enumerate(zip((0.5, 0.25, 0.3, 0.7), (a_0, a_1, a_2, a_3))):" in lines
    assert "    h = h * n_k" in lines


@pytest.mark.parametrize(
    "change",
    [
        ("x = x + token_2", "x = x - token_2"),  # another operation
        ("token_3 = h + a_2", "token_3 = h + token"),  # reads what another round made
        ("return torch.cat([token, token_2, token_3, token_4], dim=1)", "return token_2 + token_3"),
    ],
)
def test_statements_that_are_not_repeated_stay(change: tuple[str, str]) -> None:
    lines = [line.replace(*change) for line in scales(4)]
    assert lines != scales(4)
    made = rolled(lines, ["model", "x", "a"], 4)
    assert made == lines or outcome(made, ["model", "x", "a"]) == outcome(lines, ["model", "x", "a"])
    assert not any(line.startswith("for") and "a_0" in line and "a_3" in line for line in made), made


def test_outcomes_tell_loops_and_calls_apart_by_what_they_compute() -> None:
    inputs = ["x"]
    assert outcome(["y = x + 1", "return y * 2"], inputs) == outcome(["return (x + 1) * 2"], inputs)
    assert outcome(["for k in range(2):", "    x = x * (k + 1)", "return x"], inputs) == outcome(
        ["return x * 1 * 2"], inputs
    )
    assert outcome(["for k in range(2):", "    x = x * (k + 2)", "return x"], inputs) != outcome(
        ["return x * 1 * 2"], inputs
    )
    functions = "def f(x: Tensor) -> Tensor:\n    y = x + 1\n    return y\n"
    assert outcome(["return f(x)"], inputs, functions) == outcome(["return x + 1"], inputs)
    assert outcome(["return f(x)"], inputs, functions) != outcome(["return x + 2"], inputs)
    with pytest.raises(Unknown):
        outcome(["while True:", "    x = x + 1", "return x"], inputs)


def test_statements_that_recur_are_a_function() -> None:
    lines = []
    for name in ("a", "b", "c"):
        drawn = [f"p_{name} = F.softmax({name}, dim=1)", f"cdf = p_{name}.cumsum(dim=1)", "total = cdf[..., -1:]"]
        lines += [
            *drawn,
            "below = cdf < u * total",
            f"token_{name} = below.sum(dim=1)",
            f"{name} = other_{name}({name})",
        ]
    lines.append("return token_a + token_b * token_c + a + b + c")
    made = outlined(lines, ["a", "b", "c", "u"], [], 4)
    assert made is not None and made.name == "token_a_of"
    assert made.text.splitlines()[0] == "def token_a_of(a: Tensor, u: Tensor) -> Tensor:"
    assert made.lines[2:4] == ["token_b = token_a_of(b, u)", "b = other_b(b)"]
    another = [line.replace("p_c.cumsum(dim=1)", "p_c.cumsum(dim=2)") for line in lines]
    assert outlined(another, ["a", "b", "c", "u"], [], 4) is None


def test_methods_of_consecutive_numbers_are_one() -> None:
    assert families(["forward", "add_0", "add_1", "add_2", "mix_4", "mix_6"]) == [
        ("add", [1, 2, 3]),
        ("mix", [4]),
        ("mix", [5]),
    ]
    bodies = [
        [f"x = self.smooth[{i}](x[:, {k}:{k + 1}])  # [B, {k}]", f"return x.view({side}, {side})"]
        for k, (i, side) in enumerate([(0, 1), (1, 2), (1, 5)], 2)
    ]
    assert runs([*bodies, ["return x"]]) == [range(3), range(3, 4)]
    assert joined(bodies, 2, 8) == [
        "i, n = ((0, 1), (1, 2), (1, 5))[k - 2]",
        "x = self.smooth[i](x[:, k:k + 1])",
        "return x.view(n, n)",
    ]
    network = SimpleNamespace(add_k=lambda k, x: (k, x), forward=abs)
    assert method_of(network, "add_7")("x") == (7, "x") and method_of(network, "forward")(-1) == 1


def arrays_of(fn: Function) -> list[Any]:
    rng = np.random.default_rng(0)
    shapes = [(v, [2 if isinstance(d, Sym) else int(d) for d in v.type.shape]) for v in fn.inputs]
    return [rng.integers(0, 3, shape) if v.type.dtype == "i64" else rng.standard_normal(shape) for v, shape in shapes]


def test_var_visits_its_scales_in_loops() -> None:
    tiny = SYSTEMS["var"]
    longer = ["networks.main.scales=[1, 2, 3, 4, 5]", "networks.quantizer.codebook.scales=[1, 2, 3, 4, 5]"]
    low = lower(load_spec(tiny.spec, tiny.variant, [*tiny.sizes, *longer, "data.tokens.grid=[55]"]))
    text = model_source(low)
    for name, net in low.networks.items():
        weights = random_weights(low.module, list(net.functions))
        model = loaded(text, torch.float64)["NETWORKS"][name]().double().eval()
        model.load_state_dict({path: torch.from_numpy(value) for path, value in weights.items()})
        for method, function in ((method, found.function) for method, found in net.methods.items()):
            arrays = arrays_of(low.module.functions[function])
            expected = Interpreter(low.module, weights).run(function, *arrays)
            with torch.no_grad():
                actual = method_of(model, method)(*tensors(arrays, torch.float64))
            for a, e in zip(actual if isinstance(actual, tuple) else (actual,), expected, strict=True):
                assert error(a, e) < 1e-9, method
    functions = Functions(low.module)
    functions.add(next(function for entry, function in low.module.entries.items() if entry.startswith("sample")))
    sampler = "\n".join(functions.texts)
    assert len(re.findall(r"def scale_(\d|k)", text)) == 3 and "def scale_k(self, k: int" in text
    assert sampler.count(".cumsum(") <= 2 and "token_of(" in sampler
