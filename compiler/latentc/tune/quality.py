"""The quality of samples besides their distance from the exact solution: a Fréchet distance, and metrics of the user.

Symbols: N samples.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentc.components.dataset import Data
from latentc.datasets import open_dataset
from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.measure.calls import evenly
from latentc.measure.metrics import frechet_distance

Array = np.ndarray
Qualities = dict[str, float]
Judge = Callable[[Array, Array | None], Qualities]  # samples [N, ...], their classes i64[N] if any -> figures by name

MOST_REAL = 2048  # most real samples that are read
FEATURES = 64  # most principal components
RESERVED = ("error", "psnr", "seconds", "evaluations")

# ---- the real data


def real_images(data: Data) -> Array | None:
    """Real samples as the network sees them, f32[N, C, H, W], at most MOST_REAL; None if they cannot be read here.

    They are held-out data if the data set has some. Latents of a first stage have no images here.
    """
    if data.first_stage is not None or "x" not in data.fields:
        return None
    try:
        found = open_dataset(data.held_out().settings())
    except (ValueError, OSError, ImportError):
        return None
    return found.rows(np.array(evenly(found.size, MOST_REAL)))["x"]


def frechet_to(real: Array) -> Callable[[Array], float]:
    """The Fréchet distance of samples [N, C, H, W] to `real` images, both projected to the principal components.

    The components are those of the real images, at most FEATURES, not scaled. The distance falls as N grows, so only
    equally many samples compare.
    """
    flat = real.reshape(len(real), -1).astype(np.float64)
    centre = flat.mean(axis=0)
    _, _, axes = np.linalg.svd(flat - centre, full_matrices=False)
    axes = axes[: min(FEATURES, len(real) - 1)]
    wanted = (flat - centre) @ axes.T
    return lambda samples: frechet_distance((samples.reshape(len(samples), -1) - centre) @ axes.T, wanted)


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

    def __call__(self, samples: Array, classes: Array | None) -> Qualities:
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

__all__ = ["Judge", "Qualities", "UserJudge", "frechet_to", "real_images"]
