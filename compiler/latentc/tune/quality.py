"""The quality of samples besides their distance from the exact solution: figures of `evaluate`, metrics of the user.

Symbols: N samples.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.evaluate import judge as evaluate
from latentc.evaluate.metrics import FIGURES, Figures
from latentc.evaluate.pictures import Samples
from latentc.evaluate.sources import field_of
from latentc_runtime.manifest import Output

Array = np.ndarray
RESERVED = ("error", "psnr", "seconds", "evaluations")


class Judge(Protocol):
    """Figures of samples [N, ...] and their classes i64[N], if any; those in `higher` are better if they are higher."""

    higher: set[str]

    def __call__(self, samples: Array, classes: Array | None) -> Figures: ...


class Named:
    """Figures of `latentc evaluate`, of samples as a program's `output` describes them."""

    def __init__(self, judge: evaluate.Judge, output: Output) -> None:
        self._judge, self._field = judge, field_of(output)
        self.higher = {name for name in judge.wanted if FIGURES[name].better == "higher"}

    def __call__(self, samples: Array, classes: Array | None) -> Figures:
        return self._judge(Samples(samples, self._field), classes)


# ---- metrics of the user


class UserJudge:
    """A metric of the user, `FILE.py:FUNCTION`: called as f(samples, classes), it returns figures by name.

    `classes` are the samples' labels i64[N], None if they have none. A figure is a number if lower is better, or a
    pair (number, "higher"). `higher` collects the names of the latter. Raises DiagnosticError: E0401, E0714.
    """

    def __init__(self, place: str) -> None:
        self.place, self.higher = place, set[str]()
        file, colon, name = place.rpartition(":")
        if not colon or not file or not name:
            raise self._unusable("is not FILE.py:FUNCTION", "write `--metric judge.py:judge`")
        self._function = self._imported(Path(file), name)

    def __call__(self, samples: Array, classes: Array | None) -> Figures:
        try:
            found = self._function(samples, classes)
        except Exception as error:  # whatever a user's code raises
            raise self._unusable(f"failed: {type(error).__name__}: {error}") from error
        if not isinstance(found, Mapping) or not found:
            raise self._unusable(f"returned {type(found).__name__}, not figures by name", _RETURNS)
        return {str(name): self._figure(str(name), value) for name, value in found.items()}

    def _figure(self, name: str, value: Any) -> float:
        figure, better = value if isinstance(value, tuple | list) and len(value) == 2 else (value, "lower")
        if better not in ("lower", "higher") or not isinstance(figure, int | float | np.number) or name in RESERVED:
            raise self._unusable(f"returned {name}: {value!r}", _RETURNS)
        if better == "higher":
            self.higher.add(name)
        return float(figure)

    def _imported(self, file: Path, name: str) -> Callable[..., Any]:
        if not file.is_file():
            raise DiagnosticError(Diagnostic("E0401", f"no such file: {file}", help="--metric takes FILE.py:FUNCTION"))
        spec = importlib.util.spec_from_file_location(f"latentc_metric_{file.stem}", file)
        if spec is None or spec.loader is None:
            raise self._unusable("is not in a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses and named tuples look up their module
        sys.path.insert(0, str(file.resolve().parent))  # its neighbours can be imported, as when it is run
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a user's code raises
            raise self._unusable(f"cannot be imported: {type(error).__name__}: {error}") from error
        finally:
            sys.path.remove(str(file.resolve().parent))
        function = getattr(module, name, None)
        if not callable(function):
            close = nearest(name, [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")])
            raise self._unusable("does not exist", f"did you mean `{close}`?" if close else None)
        return function  # type: ignore[no-any-return]

    def _unusable(self, what: str, mend: str | None = None) -> DiagnosticError:
        return DiagnosticError(Diagnostic("E0714", f"the metric {self.place} {what}", help=mend))


_RETURNS = (
    'return {"name": number} if lower is better, {"name": (number, "higher")} if higher is; '
    f"the names {', '.join(RESERVED)} are taken"
)

__all__ = ["Judge", "Named", "UserJudge"]
