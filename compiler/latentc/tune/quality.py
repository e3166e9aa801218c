"""The quality of samples besides their distance from the exact solution: figures of `evaluate`, metrics of the user.

Symbols: N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from latentc.evaluate import judge as evaluate
from latentc.evaluate.metrics import Figures, figure_named
from latentc.evaluate.pictures import Samples
from latentc.evaluate.sources import field_of
from latentc.tune.user_functions import UserFunction
from latentc_runtime.manifest import Output

Array = np.ndarray
RESERVED = ("error", "psnr", "seconds", "evaluations")


Figure = Callable[[Array, Array | None], float]
"""A number that says how bad samples [N, ...] of classes i64[N], if any, are."""


class Judge(Protocol):
    """Figures of samples [N, ...] and their classes i64[N], if any; those in `higher` are better if they are higher."""

    higher: set[str]

    def __call__(self, samples: Array, classes: Array | None) -> Figures: ...


class Named:
    """Figures of `latentc evaluate`, of samples as a program's `output` describes them."""

    def __init__(self, judge: evaluate.Judge, output: Output) -> None:
        self._judge, self._field = judge, field_of(output)
        self.higher = {name for name in judge.wanted if (one := figure_named(name)) and one.better == "higher"}
        self.named = judge.named

    def __call__(self, samples: Array, classes: Array | None) -> Figures:
        return self._judge(Samples(samples, self._field), classes)


# ---- metrics of the user


class UserJudge:
    """A metric of the user, `FILE.py:FUNCTION`: called as f(samples, classes), it returns figures by name.

    `classes` are the samples' labels i64[N], None if they have none. A figure is a number if lower is better, or a
    pair (number, "higher"). `higher` collects the names of the latter. Raises DiagnosticError: E0401, E0714.
    """

    def __init__(self, place: str) -> None:
        self._function, self.higher = UserFunction(place, "metric", "--metric"), set[str]()

    def __call__(self, samples: Array, classes: Array | None) -> Figures:
        found = self._function(samples, classes)
        if not isinstance(found, Mapping) or not found:
            raise self._function.unusable(f"returned {type(found).__name__}, not figures by name", _RETURNS)
        return {str(name): self._figure(str(name), value) for name, value in found.items()}

    def _figure(self, name: str, value: Any) -> float:
        figure, better = value if isinstance(value, tuple | list) and len(value) == 2 else (value, "lower")
        if better not in ("lower", "higher") or not isinstance(figure, int | float | np.number) or name in RESERVED:
            raise self._function.unusable(f"returned {name}: {value!r}", _RETURNS)
        if better == "higher":
            self.higher.add(name)
        return float(figure)


_RETURNS = (
    'return {"name": number} if lower is better, {"name": (number, "higher")} if higher is; '
    f"the names {', '.join(RESERVED)} are taken"
)
