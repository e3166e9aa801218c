"""Heads cut out behind their transposition: where the layout is one of heads, and only there."""

import numpy as np
import pytest
from ir_parse import module_from_text
from random_modules import results_of
from test_cleanup import HEADER

from latentc.ir.verify import verify
from latentc.passes.heads import split_heads_late


@pytest.mark.parametrize(("tokens", "heads", "cut"), [(4, 4, True), (8, 2, False)])
def test_only_heads_are_laid_out(tokens, heads, cut):
    """A reshape that lays out tokens anew with the heads cannot be one of both parts together."""
    text = f"""
entry f = "f"

fn "f" (%x: f32[B, 4, 16]) {{
  %a: f32[B, 4, 8], %b: f32[B, 4, 8] = split(%x) {{axis=2, sizes=(8, 8)}}
  %ar: f32[B, {tokens}, {heads}, 2] = reshape(%a) {{shape=(B, {tokens}, {heads}, 2)}}
  %br: f32[B, {tokens}, {heads}, 2] = reshape(%b) {{shape=(B, {tokens}, {heads}, 2)}}
  %at: f32[B, {heads}, {tokens}, 2] = transpose(%ar) {{perm=(0, 2, 1, 3)}}
  %bt: f32[B, {heads}, {tokens}, 2] = transpose(%br) {{perm=(0, 2, 1, 3)}}
  return %at, %bt
}}
"""
    before = verify(module_from_text(HEADER + text))
    after = verify(split_heads_late(before))
    assert (after is not before) == cut
    for p, q in zip(results_of(before, {})["f"], results_of(after, {})["f"], strict=True):
        assert np.array_equal(p, q)
