"""Statements that several methods begin with are one method."""

from __future__ import annotations

import re

import pytest
from tiny_systems import SYSTEMS

from latentc.emit.model import model_source
from latentc.emit.shared import Method, without_shared
from latentc.lower import lower
from latentc.spec import load_spec

BEGIN = [
    "B = x.shape[0]",
    "qkv = self.qkv(x)  # [B, T, 3 * dim]",
    "q, k, v = qkv.chunk(3, dim=2)",
    "q = q.reshape(B, -1)",
    "k = k.reshape(B, -1)",
    "v = v.reshape(B, -1)",
]
FORWARD = Method("forward", "(self, x: Tensor) -> Tensor", [*BEGIN, "h = attend(q, k, v)", "return self.proj(h)"])
DECODE = Method(
    "decode",
    "(self, x: Tensor, keys: Tensor) -> Tensor",
    ['"""The next token."""', *BEGIN, "keys = torch.cat([keys, k])", "return attend(q, keys, v).reshape(B, -1)"],
)


def test_what_methods_begin_with_is_a_method() -> None:
    shared, forward, decode = without_shared([FORWARD, DECODE], ())
    assert shared == Method("_qkv", "(self, x: Tensor) -> tuple[Tensor, ...]", [*BEGIN, "return q, k, v"])
    assert forward.lines == ["q, k, v = self._qkv(x)", *FORWARD.lines[6:]]
    assert decode.lines == ['"""The next token."""', "B = x.shape[0]", "q, k, v = self._qkv(x)", *DECODE.lines[7:]]
    assert without_shared([FORWARD, DECODE], ("_qkv",))[0].name == "_qkv_"


@pytest.mark.parametrize(
    ("was", "other"),
    [
        ("q = q.reshape(B, -1)", "q = q.reshape(B, 1, -1)"),  # another statement
        ("(self, x: Tensor, keys: Tensor)", "(self, x: Tensor | None, keys: Tensor)"),  # an argument of another type
        ("B = x.shape[0]", "B = keys.shape[0]"),  # another size of the same name
    ],
)
def test_other_beginnings_stay(was: str, other: str) -> None:
    changed = Method("decode", DECODE.signature.replace(was, other), [s.replace(was, other) for s in DECODE.lines])
    assert without_shared([FORWARD, changed], ()) == [FORWARD, changed]


def test_lists_and_what_each_method_changes_are_not_shared() -> None:
    caches = ["caches = []", *BEGIN]
    methods = [Method(name, "(self, x: Tensor) -> Tensor", [*caches, f"return {name}(q, caches)"]) for name in "ab"]
    assert without_shared(methods, ()) == methods


def test_a_method_for_training_shares_its_body_with_forward() -> None:
    tiny = SYSTEMS["improved_mean_flow"]
    text = model_source(lower(load_spec(tiny.spec, tiny.variant, [*tiny.sizes])))
    network = text[text.rindex("\nclass ") :]
    assert len(re.findall(r"x = self\._trunk\(", network)) == 2
    assert network.count("self.x_embedder(x)") == 1 == network.count("self.blocks[0](")
