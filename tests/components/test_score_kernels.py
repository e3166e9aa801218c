"""Kernels of the distance between tokens: KERPLE's numbers, attention written out, decoding token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from parity_data import error, load

from latentc.components.decoding import DECODE, Given
from latentc.diagnostics import DiagnosticError
from latentc.emit.model import model_source
from latentc.ir.builder import ModuleBuilder, Var, module_class
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.measure.execute import executable
from latentc.spec import load_spec
from latentc.systems.kerple.kernels import ScoreKernel, distances
from latentc.systems.kerple.kerple_attention import KerpleAttention
from latentc.systems.kerple.kerple_log import KerpleLog
from latentc.systems.kerple.kerple_power import KerplePower
from latentc.weights import Array
from latentc_runtime.backends import open_backend

KERNELS: dict[str, ScoreKernel] = {"kerple.log": KerpleLog(kind="kerple_log")}
KERNELS["kerple.power"] = KerplePower(kind="kerple_power")
POWERS = [
    {"bias": "scale"},
    {"bias": "power"},
    {"bias": None, "factor": "scale_and_power"},
    {"bias": "power", "factor": "scale"},
]
DIM, HEADS, TOKENS = 8, 2, 5


def built(kernel: ScoreKernel, heads: int, tokens: int) -> Any:
    """A module of the kernel on the scores of causal attention."""

    @module_class("Kernel")
    def body(b: Any, scores: Var) -> Var:
        """Scores with a kernel of the distances."""
        return kernel.on(b, scores, distances(b, tokens, causal=True))

    mb = ModuleBuilder()
    mb.entries["main.forward"] = mb.define(body, [f32(B, heads, tokens, tokens)], {}, ["scores"])
    return mb.finish()


@pytest.mark.parametrize("backend", ["oracle", "onnxruntime", "openvino"])
@pytest.mark.parametrize("name", KERNELS)
def test_the_authors_numbers(name: str, backend: str) -> None:
    numbers = load(name)
    module = built(KERNELS[name], 4, 6)
    if backend == "oracle":
        (found,) = Interpreter(module, numbers.weights).run("main.forward", numbers.inputs["x"])
    else:
        weights = {path: Array(array) for path, array in numbers.weights.items()}
        call = executable(module, "main.forward", weights, backend=open_backend("cpu", engine=backend))
        (found,) = call({"scores": numbers.inputs["x"]})
    assert error(found, numbers.outputs["out"]) < 1e-5


def reference(kernel: ScoreKernel, weights: dict[str, torch.Tensor], apart: torch.Tensor, scores: Any) -> Any:
    """The kernels of table 1, from the parameters of all heads."""
    if isinstance(kernel, KerpleLog):
        return scores - weights["bias_p"] * torch.log(1 + weights["bias_a"] * apart)

    def decay(name: str) -> torch.Tensor:
        a, p = (weights.get(f"{name}_{n}", torch.ones(HEADS, 1, 1)) for n in "ap")
        return a * torch.where(apart > 0, apart**p, 0)

    scores = scores * torch.exp(-decay("wei")) if kernel.factor is not None else scores  # type: ignore[attr-defined]
    return scores - decay("bias") if kernel.bias is not None else scores  # type: ignore[attr-defined]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kernel", [{"kind": "kerple_log"}, *({"kind": "kerple_power", **p} for p in POWERS)])
def test_attention_written_out(kernel: dict[str, Any], causal: bool) -> None:
    mixer = KerpleAttention(kind="kerple_attention", heads=HEADS, causal=causal, kernel=kernel)
    mb = ModuleBuilder()
    b = mb.function("main")
    x = b.input("x", f32(B, TOKENS, DIM))
    b.output(*mixer.apply(b, "attn", x, "xavier", Given(), dim=DIM, heads=HEADS))
    mb.entries["main"] = b.finish()
    module = mb.finish()
    rng = np.random.default_rng(0)
    weights = {
        path: rng.uniform(0.1, 1.9, p.type.shape) if "_" in path.rpartition(".")[2] else rng.normal(0, 1, p.type.shape)
        for path, p in parameters(module, "main").items()
    }
    given = rng.standard_normal((3, TOKENS, DIM))
    (found,) = Interpreter(module, weights).run("main", given)

    w = {path.removeprefix("attn."): torch.from_numpy(array) for path, array in weights.items()}
    qkv = torch.nn.functional.linear(torch.from_numpy(given), w["qkv.weight"], w["qkv.bias"])
    q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
    place = torch.arange(TOKENS, dtype=torch.float64)
    apart = place[:, None] - place
    scores = q @ k.transpose(-1, -2) / (DIM // HEADS) ** 0.5
    scores = reference(mixer.kernel, w, apart.clamp(min=0) if causal else apart.abs(), scores)  # type: ignore[arg-type]
    scores = scores.masked_fill(apart < 0, -torch.inf) if causal else scores
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    wanted = torch.nn.functional.linear(mixed, w["proj.weight"], w["proj.bias"]).numpy()
    assert np.abs(found - wanted).max() < 1e-9 * np.abs(wanted).max()


@pytest.mark.parametrize("kernel", [{"kind": "kerple_log"}, {"kind": "kerple_power", "factor": "scale"}])
def test_decoding_is_the_last_row(kernel: dict[str, Any]) -> None:
    mixer = KerpleAttention(kind="kerple_attention", heads=HEADS, causal=True, kernel=kernel)
    mb = ModuleBuilder()
    whole = mb.function("whole")
    x = whole.input("x", f32(B, TOKENS, DIM))
    whole.output(*mixer.apply(whole, "attn", x, "xavier", Given(), dim=DIM, heads=HEADS))
    mb.entries["whole"] = whole.finish()
    b = mb.function("step")
    mask = f32(1, 1, 1, TOKENS).with_dtype("bool")
    caches = [f32(B, HEADS, TOKENS, DIM // HEADS)] * 2
    operands = [b.input("o", t) for t in (f32(B, 1, DIM), i64(), mask, *caches)]
    given = Given(DECODE, dict(zip(DECODE.operands, operands[1:], strict=True)))
    b.output(*mixer.apply(b, "attn", operands[0], "xavier", given, dim=DIM, heads=HEADS))
    mb.entries["step"] = b.finish()
    module = mb.finish()
    rng = np.random.default_rng(0)
    weights = {path: rng.uniform(0.1, 0.9, p.type.shape) for path, p in parameters(module, "whole").items()}
    oracle, given = Interpreter(module, weights), rng.standard_normal((2, TOKENS, DIM))
    (wanted,) = oracle.run("whole", given)
    keys = values = np.zeros((2, HEADS, TOKENS, DIM // HEADS))
    for i in range(TOKENS):
        seen = (np.arange(TOKENS) <= i)[None, None, None]
        out, keys, values = oracle.run("step", given[:, i : i + 1], np.array(i), seen, keys, values)
        np.testing.assert_allclose(out[:, 0], wanted[:, i], rtol=1e-9)


def test_kernels_refuse_what_does_not_fit() -> None:
    mixer = "backbone.block.mixer={kind: kerple_attention, heads: 6, causal: true, %s}"
    for more, said in (
        ("kernel: {kind: kerple_power, bias: null}", "neither adds to the scores"),
        ("kv_heads: 2, kernel: {kind: kerple_power, factor: scale}", "as many key heads"),
    ):
        with pytest.raises(DiagnosticError, match=said):
            load_spec("llamagen", overrides=["backbone.width=96", mixer % more])


def test_it_is_emitted() -> None:
    mixer = "backbone.block.mixer={kind: kerple_attention, heads: 4, kernel: {kind: kerple_log}}"
    overrides = ["data={kind: digits}", mixer, "backbone.depth=1"]
    from latentc.lower import lower

    text = model_source(lower(load_spec("digits_dit", overrides=overrides)), "main")
    assert "torch.log(" in text and "nn.init.uniform_(self.bias_p, 0.0, 2.0)" in text
