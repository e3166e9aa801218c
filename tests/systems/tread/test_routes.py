"""Routes that do not fit a network are refused."""

from __future__ import annotations

import pytest

from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec

TINY = ["backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2"]
ONE = "backbone.routes=[{start: 1, end: 1}]"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["backbone.routes=[{start: 1, end: 2}]"], "blocks 1 to 2 are not a valid route"),
        (["backbone.routes=[{start: 0, end: 1}, {start: 1, end: 1}]"], "blocks 1 to 1 are not a valid route"),
        ([ONE, "backbone.positions={kind: rope_2d}"], "assigns positions inside blocks"),
        ([ONE, "backbone.block.mixer={kind: linear_attention, heads: 2, kernel: 3}"], "not a square"),
    ],
)
def test_routes_that_do_not_fit_are_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("tread", overrides=[*TINY, *overrides])
