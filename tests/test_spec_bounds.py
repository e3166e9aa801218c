"""No number in a spec makes a loop or an array that never ends: each has a bound, and checking stays quick at it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.spec import json_schema

FIXED = ("const", "enum")
BOUNDS = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))


def integers(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if schema.get("type") == "integer" and not any(key in schema for key in FIXED):
            yield path, schema
        for key, value in schema.items():
            yield from integers(value, f"{path}.{key}")
    elif isinstance(schema, list):
        for i, value in enumerate(schema):
            yield from integers(value, f"{path}.{i}")


def test_every_integer_has_bounds() -> None:
    found = list(integers(json_schema()))
    assert len(found) > 150
    assert [path for path, schema in found if not all(any(key in schema for key in pair) for pair in BOUNDS)] == []


@pytest.mark.parametrize(
    ("spec", "overrides", "words"),
    [
        ("digits_dit", ["train.accumulate=9000000000000000000"], "at most 65536"),
        ("sit", ["data.shape=[4,2147483648,2147483648]", "backbone.patch=3"], "at most 16777216"),
        ("sit", ["data.shape=[4,16777216,16777216]"], "`sd_vae` cannot take images of shape"),
        ("digits_dit", ["data.fields={map: {shape: [65536, 65536]}}"], "more than 2^31"),
        ("dit_moe", ["backbone.block.mixer.heads=2147483648"], "at most 1024"),
        ("dit_moe", ["backbone.block.feed_forward.experts=2147483648"], "at most 1024"),
        ("digits_llamagen", ["backbone.depth=10000"], "at most 512"),
        ("sit", ["data.shape=[]"], "takes arrays [C, H, W] or [C, T]"),
        ("edm", ["backbone.frequencies=2"], "greater than 2"),
        ("digits_biggan", ["networks.main.channel_multipliers=[2, 0]"], "greater than 0"),
        ("digits_biggan", ["networks.main.channel_multipliers=[2, -1]"], "greater than 0"),
        ("biggan_deep", ["networks.main.channel_multipliers=[16, 16, 8, 4, 2, 3]"], "cannot add channels"),
        ("dimr", ["backbone.branches=[{width: 64, half: 1, patch: 2, block: coarse}]"], "one value per 2 pixels"),
        ("dimr", ["backbone.coarse.mixer={kind: axial_attention, heads: 16}"], "the mixer needs a square alone"),
        ("dimr", ["backbone.branches=[{width: 8, half: 1, kernel: 4}]"], "a kernel of side 4 has no centre"),
        ("dimr", ["backbone.branches=[{width: 8, half: 1}]"], "no branch has others"),
        ("dimr", ["backbone.branches=[{width: 32, half: 1, block: coarse, kernel: 3}]"], "`attention` has no `kernel`"),
    ],
)
def test_numbers_beyond_bounds_are_refused(spec: str, overrides: list[str], words: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        api.check(spec, None, overrides)
    assert any(words in diagnostic.message for diagnostic in refused.value.diagnostics)


@pytest.mark.parametrize(
    ("spec", "overrides"),
    [
        ("digits_dit", ["train.accumulate=65536", "train.batch_size=1048576"]),
        ("dit_moe", ["backbone.block.feed_forward.experts=1024"]),
        ("digits_llamagen", ["backbone.depth=512"]),
        ("digits_tarflow", ["backbone.depth=64", "backbone.flows=64"]),
        ("sit", ["data.shape=[4,2048,2048]"]),
        ("digits_maskgit", ["backbone.depth=512"]),
    ],
)
def test_checking_is_quick_at_the_bounds(spec: str, overrides: list[str]) -> None:
    begun = time.process_time()
    api.check(spec, None, overrides)
    assert time.process_time() - begun < 5.0  # below 1 s on an idle core
