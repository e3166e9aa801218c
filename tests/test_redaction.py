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


UNET = ("networks.teacher={kind: like, pretrained: weights.safetensors}", "networks.main.copy_of=teacher")
REDACTED = "objective={kind: redaction, classes: [3], instead: INSTEAD, base: {kind: diffusion}}"


@pytest.mark.parametrize(("encoding", "early"), [("index", False), ("one_hot", True), ("one_hot", False)])
def test_the_class_embedding_of_a_unet_is_redacted(encoding: str, early: bool) -> None:
    """Added to the features of the time, or to their embedding; no class is zeros, where labels are one-hot."""
    label = f"conditioning.class={{kind: label, dropout: 0.1, encoding: {encoding}}}"
    sizes = ["data={kind: digits}", "backbone.width=16", "backbone.multipliers=[1]", "backbone.blocks=1"]
    sizes += ["backbone.attention=[]", "backbone.block={groups: 4, heads: 1}", "conditioning.time.frequencies=16"]
    sizes += [label, f"backbone.early={'[class]' if early else '[]'}", *UNET, "sampler=null"]
    low = lower(load_spec("adm", "64", [*sizes, REDACTED.replace("INSTEAD", "null")]))
    rng, width = np.random.default_rng(0), 16 if early else 64
    student, teacher = rng.standard_normal((2, 11, width))
    if encoding == "one_hot":
        student, teacher = student[:10], teacher[:10]
    weights = {"main.embedder.y_embedder.weight": student, "teacher.embedder.y_embedder.weight": teacher}
    student, teacher = (np.concatenate([w, np.zeros((1, width))])[:11] for w in (student, teacher))
    labels, taught = np.array([0, 3, 10]), np.array([0, 10, 10])
    found = Interpreter(low.module, weights).run("loss", labels)
    assert found[0] == pytest.approx(((student[labels] - teacher[taught]) ** 2).mean())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["objective.classes=[10]"], "class 10 is out of range"),
        (["objective.instead=3"], "class 3 is redacted or out of range"),
        (
            ["objective.instead=null", "conditioning.class.dropout=0", "sampler.guidance=null"],
            "never dropped in training",
        ),
        (["networks.teacher.pretrained=null"], "needs trained weights"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("digits_redacted", overrides=overrides)
