"""What RARM's network refuses; tests/parity/rarm.py compares it with its authors' code."""

from __future__ import annotations

import pytest
from tiny_systems import SYSTEMS

from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec

TINY = SYSTEMS["rarm"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("backbone.block.mixer.causal=false", "so its mixer must be causal"),
        ("backbone.block.condition={kind: in_context}", "attend to conditions, but those of `in_context` do not"),
        ("backbone.conditions=[]", "attends to conditions, but takes none"),
        ("conditioning.class={kind: label}", "form one sequence, but differ in width"),
    ],
)
def test_what_does_not_fit_is_refused(override: str, words: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec(TINY.spec, None, [*TINY.sizes, override])
    assert words in str(caught.value)
