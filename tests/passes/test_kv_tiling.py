"""Caches that grow a block of tokens at a time: the same tokens, what loops carry, what is left as it is."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
from gradients import weights_of
from ir_parse import module_from_text

from latentc.diagnostics import DiagnosticError
from latentc.ir.core import Module, Node, walk
from latentc.ir.interpret import Interpreter
from latentc.ir.text import text_from_module
from latentc.ir.verify import verify
from latentc.lower import lower
from latentc.passes import kv_block, kv_tiling
from latentc.passes.kv_tiling import blocks_of, tile_caches
from latentc.passes.precision import caches_in_half
from latentc.pipeline import optimised
from latentc.spec import load_spec

TINY = ("backbone.width=32", "backbone.depth=2", "backbone.block.mixer.heads=4",
        "backbone.block.feed_forward.multiple_of=8", "sampler.top_k=5",
        "data={kind: npz, classes: 5, tokens: {vocabulary: 11, grid: [4, 4]}}")  # fmt: skip
CASES = {
    "guided": (),
    "grouped": ("backbone.block.mixer.kv_heads=2",),
    "learned": ("backbone.positions={kind: learned}",),
    "interval": ("sampler.guidance={scale: 2, interval: [0, 0.5]}",),
    "greedy": ("sampler.temperature=0", "sampler.guidance=null"),
}


@functools.cache
def before(case: str) -> tuple[Any, Module]:
    """A token sampler as the pass finds it."""
    spec = load_spec("llamagen", None, [*TINY, *CASES[case], "target.engine=openvino"])
    lowered = lower(spec)
    return lowered, optimised(lowered, spec, "quantize").module


def drawn(case: str, module: Module) -> Any:
    lowered, _ = before(case)
    weights = weights_of(lowered.module, "main.forward")
    rng = np.random.default_rng(3)
    given = {"y": np.array([1, 4, 0]), "scale": np.array([2.0, 1.5, 3.0]), "u": rng.random((16, 3))}
    interpreter = Interpreter(module, {f"main.{k}": v for k, v in weights.items()})
    entry = lowered.programs[0].entry
    return interpreter.run(entry, *(given[v.name] for v in module.entry(entry).inputs))[0]


@pytest.mark.parametrize("size", [2, 4, 5, 15, 40])
@pytest.mark.parametrize("case", CASES)
def test_the_same_tokens(case: str, size: int) -> None:
    lowered, module = before(case)
    after = verify(tile_caches(module, size), "expanded")
    assert after is not module
    want = drawn(case, lowered.module)
    np.testing.assert_array_equal(drawn(case, after), want)
    assert len(np.unique(want)) > 3


@pytest.mark.parametrize("fault", ["row", "rows before"])
def test_a_fault_shows(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: rows counted from the wrong place, or those of the block seen twice."""
    _, module = before("guided")
    if fault == "row":
        right = kv_tiling._offset
        monkeypatch.setattr(kv_tiling, "_offset", lambda body, position: (right(body, position) or 0) - 1)
    else:
        monkeypatch.setattr(kv_block.BodyInBlock, "_mask", _everything)
    assert np.any(drawn("guided", tile_caches(module, 5)) != drawn("guided", module))


def _everything(body: Any, value: Any) -> Any:
    return body.b.constant(np.ones([1, 1, 1, int(value.type.shape[3]) + body.size], bool), "bool")


def loops(module: Module) -> dict[int, Node]:
    return {int(n.attrs["trip"]): n for _, n in walk(module) if n.op == "loop"}


def carried(node: Node) -> list[Any]:
    first = node.attrs["invariants"]
    return [v.type for v in node.inputs[first : first + node.attrs["carried"]] if v.type.rank == 4]


def test_a_token_copies_the_rows_of_its_block() -> None:
    _, module = before("guided")
    found = loops(tile_caches(module, 5))
    assert {trip: {int(t.shape[2]) for t in carried(node)} for trip, node in found.items()} == {3: {16}, 5: {5}}


def test_caches_stay_in_half() -> None:
    _, module = before("guided")
    after = verify(tile_caches(caches_in_half(module, "bf16"), 5), "expanded")
    assert {t.dtype for node in loops(after).values() for t in carried(node)} == {"bf16"}


@pytest.mark.parametrize(
    ("trip", "size", "pieces"),
    [
        (255, None, [(0, 17, 15)]),
        (575, None, [(0, 25, 23)]),
        (127, None, [(0, 1, 15), (15, 7, 16)]),  # a prime
        (32, None, []),
        (15, 5, [(0, 3, 5)]),
        (15, 4, [(0, 1, 3), (3, 3, 4)]),
        (15, 40, [(0, 1, 15)]),
    ],
)
def test_blocks(trip: int, size: int | None, pieces: list[tuple[int, int, int]]) -> None:
    assert blocks_of(trip, size) == pieces
    if pieces:
        assert sum(count * n for _, count, n in pieces) == trip


def test_what_stays_as_it_is() -> None:
    _, module = before("guided")
    assert tile_caches(module, 1) is module
    assert tile_caches(module) is module  # 15 tokens are one block
    spec = load_spec("digits_dit", None, ["sampler.steps=4"])
    other = optimised(lower(spec), spec, "quantize").module
    assert tile_caches(other, 4) is other


# What is wrong: (text of the module, text in its place).
ODD = {
    "a mask without the token itself": ("less_equal(%index, %position)", "less(%index, %position)"),
    "a mask of other rows": ("value=array(i64, [16], 0, 1, 2,", "value=array(i64, [16], 0, 2, 1,"),
    "a mask that is read as a number": (
        "  return %x_8, %keys_2, %values_2",
        '  %odd: f32[1, 1, 1, T:grid ** 2=16] = cast(%mask) {to="f32"}\n  return %x_8, %keys_2, %values_2',
    ),
    "a row behind the last": ("value=array(i64, [], 1)", "value=array(i64, [], 2)"),
    "a row before the first": ("value=array(i64, [], 1)", "value=array(i64, [], -1)"),
    "a cache that does not grow": ("  return %x_8, %keys_2, %values_2", "  return %x_8, %keys, %values_2"),
    "what the cache was": ("attention(%q_3, %keys_2, %values_2", "attention(%q_3, %keys, %values_2"),
}


@pytest.mark.parametrize("case", ODD)
def test_other_uses_of_a_cache_stay_as_they_are(case: str) -> None:
    old, new = ODD[case]
    text = text_from_module(before("guided")[1])
    same = module_from_text(text)
    assert old in text and tile_caches(same, 5) is not same
    module = verify(module_from_text(text.replace(old, new)), "expanded")
    assert tile_caches(module, 5) is module


def test_a_cache_that_is_handed_back_stays_as_it_is() -> None:
    """A network that gives the cache as it was beside the grown one: inside a block that would lack rows."""
    text = text_from_module(before("guided")[1])
    text = text.replace("  return %x_8, %keys_2, %values_2", "  return %x_8, %keys_2, %values_2, %keys")
    taken = r", %was: f32[B, heads=4, T=16, 8]\1"
    text, calls = re.subn(r'( = call\(.*fn="Attention.decode")', lambda m: m.expand(taken), text)
    module = verify(module_from_text(text), "expanded")
    assert calls and tile_caches(module, 5) is module


def test_where_it_runs() -> None:
    for options, size in (((), 9), (("optimize.kv_tile=1",), 64), (("target.form=host",), 64)):
        spec = load_spec("digits_llamagen", None, ["backbone.depth=2", "target.engine=openvino", *options])
        module = optimised(lower(spec), spec).module
        least = min(int(t.shape[2]) for node in loops(module).values() for t in carried(node))
        assert (least == 64) == (size == 64), (options, least)


@pytest.mark.parametrize(
    ("options", "why"),
    [(("target.engine=onnxruntime",), "onnxruntime"), (("target={engine: openvino, form: host}",), "host")],
)
def test_a_block_that_cannot_be_is_refused(options: tuple[str, ...], why: str) -> None:
    with pytest.raises(DiagnosticError, match=why) as caught:
        load_spec("digits_llamagen", None, [*options, "optimize.kv_tile=9"])
    assert [d.code for d in caught.value.diagnostics] == ["E0305"]
