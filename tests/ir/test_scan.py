"""The forms of the selective scan agree with the sequential one, also for long sequences and steps that forget all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from latentc.emit.helpers import helper_source
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OPS, scan
from latentc.ir.types import B, f32

LENGTH, CHANNELS, STATES = 1_500, 2, 3


def operands(steps: tuple[float, float]) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    tokens = (2, LENGTH)
    delta = np.exp(rng.uniform(*np.log(steps), (*tokens, CHANNELS)))
    rates = -np.broadcast_to(np.arange(1.0, STATES + 1), (CHANNELS, STATES))
    return [
        rng.standard_normal((*tokens, CHANNELS)),
        delta,
        rates,
        *(rng.standard_normal((*tokens, STATES)) for _ in "bc"),
    ]


def built(form: Callable[[Any, Any], Any]) -> Any:
    mb = ModuleBuilder()
    b = mb.function("main")
    tokens, states = f32(B, LENGTH, CHANNELS), f32(B, LENGTH, STATES)
    types = (tokens, tokens, f32(CHANNELS, STATES), states, states)
    b.output(form(b, [b.input("x", type) for type in types]))
    mb.entries["main"] = b.finish()
    return mb.finish()


@pytest.mark.parametrize("steps", [(1e-6, 1e-4), (1e-3, 0.1), (5.0, 500.0)], ids=["keeps", "usual", "forgets"])
@pytest.mark.parametrize("form", ["chunked", "torch"])
def test_long_sequences(form: str, steps: tuple[float, float]) -> None:
    given = operands(steps)
    (wanted,) = OPS["selective_scan"].evaluate(given, {})  # type: ignore[misc]
    if form == "torch":
        scope: dict[str, Any] = {}
        text = "import math\nimport torch\nimport torch.nn.functional as F\nfrom torch import Tensor\n"
        exec(text + helper_source({"selective_scan"}), scope)
        found = scope["selective_scan"](*(torch.from_numpy(np.array(array)).float() for array in given)).numpy()
    else:
        (found,) = Interpreter(built(scan.chunked), float_dtype="f32").run("main", *given)
    assert np.isfinite(found).all()
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
