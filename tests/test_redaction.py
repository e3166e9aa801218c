"""Redaction of classes: the loss against the paper's formula, what it leaves alone, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = ["networks.main.width=16", "networks.main.depth=1", "networks.main.block.mixer.heads=2"]


@pytest.mark.parametrize("instead", [8, None])
def test_redacted_classes_are_taught_another(instead: int | None) -> None:
    text = "null" if instead is None else str(instead)
    low = lower(
        load_spec(
            "digits_redacted",
            overrides=[*SMALL, "objective.classes=[3, 5]", f"objective.instead={text}", "objective.weight=4.0"],
        )
    )
    assert not low.updates[0].batch and low.updates[0].partial
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((2, 11, 16))
    labels = np.array([0, 3, 5, 8, 10])
    taught = np.array([0, instead, instead, 8, 10]) if instead is not None else np.array([0, 10, 10, 8, 10])
    weights = {"main.y_embedder.weight": student, "teacher.y_embedder.weight": teacher}
    squared = ((student[labels] - teacher[taught]) ** 2).mean(axis=1)
    factor = np.array([1, 4, 4, 1, 1])
    found = Interpreter(low.module, weights).run("loss", labels)
    assert found[0] == pytest.approx((factor * squared).mean()) and found[1] == pytest.approx(squared.mean())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["objective.classes=[10]"], "no class 10"),
        (["objective.instead=3"], "class 3 cannot stand in"),
        (["objective.instead=null", "conditioning.class.dropout=0", "sampler.guidance=null"], "what no class is"),
        (["networks.teacher.pretrained=null"], "has no weights to teach"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("digits_redacted", overrides=overrides)
