"""The quality of samples: their distance from the exact solution from the same noise, and metrics of the user."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentc.diagnostics import Diagnostic, DiagnosticError, nearest

Array = np.ndarray
Qualities = dict[str, float]
Judge = Callable[[Array, Array | None], Qualities]  # samples [N, ...], their classes i64[N] if any -> figures by name


def error(samples: Array, reference: Array) -> float:
    """The samples' mean distance (root mean square of each) from the reference, over the reference's root mean square.

    A mean of distances, not of their squares, in which a few samples that become another picture would dominate.
    """
    difference = (samples.astype(np.float64) - reference).reshape(len(samples), -1)
    if not np.all(np.isfinite(difference)):
        return math.inf
    distances = np.sqrt(np.mean(difference**2, axis=1))
    return float(np.mean(distances) / np.sqrt(np.mean(reference.astype(np.float64) ** 2)))


class UserJudge:
    """A metric of the user, `FILE.py:FUNCTION`: called as f(samples, classes), it returns figures by name.

    `classes` are the samples' labels i64[N], None if they have none.

    A figure is a number where lower is better, or a pair (number, "higher"). `higher` collects the names of the
    latter. Raises DiagnosticError: E0401, E0714.
    """

    def __init__(self, place: str) -> None:
        self.place, self.higher = place, set[str]()
        file, colon, name = place.rpartition(":")
        if not colon or not file or not name:
            raise _unusable(place, "is not FILE.py:FUNCTION", "write `--metric judge.py:judge`")
        self._function = _function(Path(file), name)

    def __call__(self, samples: Array, classes: Array | None) -> Qualities:
        try:
            found = self._function(samples, classes)
        except Exception as error:  # whatever a user's code raises
            raise _unusable(self.place, f"failed: {type(error).__name__}: {error}") from error
        if not isinstance(found, Mapping) or not found:
            raise _unusable(self.place, f"returned {type(found).__name__}, not figures by name", _RETURNS)
        return {str(name): self._figure(str(name), value) for name, value in found.items()}

    def _figure(self, name: str, value: Any) -> float:
        figure, way = value if isinstance(value, tuple | list) and len(value) == 2 else (value, "lower")
        if way not in ("lower", "higher") or not isinstance(figure, int | float | np.number) or name in RESERVED:
            raise _unusable(self.place, f"returned {name}: {value!r}", _RETURNS)
        if way == "higher":
            self.higher.add(name)
        return float(figure)


RESERVED = ("error", "psnr", "seconds", "evaluations")
_RETURNS = (
    'return {"name": number} if lower is better, {"name": (number, "higher")} if higher is; '
    f"the names {', '.join(RESERVED)} are taken"
)


def _function(file: Path, name: str) -> Callable[..., Any]:
    if not file.is_file():
        raise DiagnosticError(Diagnostic("E0401", f"no such file: {file}", help="--metric takes FILE.py:FUNCTION"))
    spec = importlib.util.spec_from_file_location(f"latentc_metric_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise _unusable(f"{file}:{name}", "is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and named tuples look themselves up there
    sys.path.insert(0, str(file.resolve().parent))  # what stands beside it can be imported, as when it is run
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's code raises
        raise _unusable(f"{file}:{name}", f"cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.resolve().parent))
    function = getattr(module, name, None)
    if not callable(function):
        close = nearest(name, [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")])
        raise _unusable(f"{file}:{name}", "does not exist", f"did you mean `{close}`?" if close else None)
    return function  # type: ignore[no-any-return]


def _unusable(place: str, what: str, mend: str | None = None) -> DiagnosticError:
    return DiagnosticError(Diagnostic("E0714", f"the metric {place} {what}", help=mend))
