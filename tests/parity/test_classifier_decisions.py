"""Decisions of the diffusion classifier: our errors in the runtime's rounds leave the authors' classes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import diffusion_classifier as recorded
import numpy as np
import pytest
from cases import Case
from parity_data import error
from test_official import by_name, official

from latentc.ir.interpret import Interpreter
from latentc_runtime.classify import Classified, Round, classify
from latentc_runtime.sources import Condition


def computed(case: Case) -> np.ndarray:
    """f64: the errors of a case by the oracle."""
    one = official(case)
    if isinstance(case, recorded.Sampler):
        entry = next(each for each in one.lowered.programs if each.name == case.program).entry
        names = [value.name for value in one.lowered.module.entry(entry).inputs]
        given = by_name(case, one.numbers, one.spec, names)
        return np.asarray(Interpreter(one.lowered.module, one.whole).run(entry, *given)[0])
    method = one.lowered.networks["main"].methods["forward"]
    given = by_name(case, one.numbers, one.spec, [port.name for port in method.inputs])
    (out,) = Interpreter(one.lowered.module, one.whole).run(method.function, *given, prefix="main")
    return np.asarray(case.output(out, one.numbers, one.spec))


def decided(errors: Sequence[np.ndarray], rounds: Sequence[Round]) -> Classified:
    """`latentc classify` of one sample if run n of the program has the error errors[class][n]."""
    left = [list(of_class) for of_class in errors]
    conditions = (Condition("x", "array", (4, 4, 4), "f32"), Condition("class", "label", classes=len(errors)))
    entry = SimpleNamespace(name="classify", steps=1, inputs=(), chunk=None)
    manifest = SimpleNamespace(
        programs=[entry], conditions_of=lambda _: conditions, settings_of=lambda _: (), conditions=conditions
    )

    def run(request: Any, batch: int | None) -> dict[str, np.ndarray]:
        return {"error": np.array([left[k].pop(0) for k in request.given.conditions["class"]])}

    pipe: Any = SimpleNamespace(manifest=manifest, program=lambda name: entry, run=run)
    return classify(pipe, np.zeros((1, 4, 4, 4)), rounds)


@pytest.mark.parametrize("number", range(3), ids=["squared", "squared, a noise per time", "absolute"])
def test_the_class_of_least_error(number: int) -> None:
    numbers, errors = official(recorded.CASES[number]).numbers, computed(recorded.CASES[number]).reshape(5, -1)
    scores = numbers.outputs["out.scores"]
    scores = scores[:, 1 if number == 2 else 0] if scores.ndim == 2 else scores
    found = decided(errors, [Round(errors.shape[1])])
    assert error(found.errors[0], scores) < 1e-5
    assert found.labels[0] == scores.argmin()
    assert number == 2 or found.labels[0] == numbers.outputs["out.pred"]  # the authors decide by squares


def test_rounds_keep_the_classes_that_the_authors_keep() -> None:
    """Two times for all five classes, then four more for the best two."""
    case = recorded.CASES[3]
    numbers, errors = official(case).numbers, computed(case)
    counts = [len(numbers.outputs[f"out.t.{k}"]) for k in range(5)]
    of_class = np.split(errors, np.cumsum(counts)[:-1])
    # Errors of classes that the authors drop would come after these: there are none, so asking for one fails.
    found = decided(of_class, [Round(2, 2), Round(4, 1)])
    assert found.labels[0] == numbers.outputs["out.pred"] == 1
    assert found.runs[0].tolist() == counts == [2, 6, 2, 2, 6]
    assert error(found.errors[0], [numbers.outputs[f"out.errors.{k}"].mean() for k in range(5)]) < 1e-5
