"""The metrics: one file each, whose `METRICS` are found here. The folder is the registry.

Every figure has one name, by which tables, `--metric`, budgets of `tune` and of quantisation, and TensorBoard know it.
The Fréchet distance is named after its features: `fid` with those of Inception's published weights, else `fd_NAME`.
`fd` asks for that of any features.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable

from latentc.diagnostics import DiagnosticError, did_you_mean
from latentc.evaluate.metrics.contract import Compared, Figure, Figures, Metric

_ORDER = ("frechet", "kernel", "manifold", "classifier", "mahalanobis", "memorisation")


def _found() -> tuple[Metric, ...]:
    names = sorted({module.name for module in pkgutil.iter_modules(__path__)} - {"contract"})
    names.sort(key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    return tuple(m for name in names for m in importlib.import_module(f"{__name__}.{name}").METRICS)


METRICS = _found()
"""Every metric, in the order of tables."""

FIGURES: dict[str, Figure] = {figure.name: figure for metric in METRICS for figure in metric.figures}
"""Every figure by name."""


def figure_named(name: str) -> Figure | None:
    """The figure of a name; all names of Fréchet distances are of one figure, `fd`."""
    return FIGURES.get("fd" if is_frechet(name) else name)


def is_frechet(name: str) -> bool:
    """True for the names of Fréchet distances of certain features."""
    return name == "fid" or name.startswith("fd_")


def figures_from_text(texts: Iterable[str]) -> list[str]:
    """Names of figures, `fid,recall`; `all` for every one. DiagnosticError E0714 for an unknown name."""
    found: list[str] = []
    for name in (part.strip() for text in texts for part in text.split(",")):
        if name == "all":
            found += FIGURES
        elif figure_named(name) is not None:
            found.append(name)
        elif name:
            known = ["fid", *FIGURES]
            mend = did_you_mean(name, known, f"known are {', '.join(known)}")
            raise DiagnosticError.of("E0714", f"there is no metric called `{name}`", help=mend)
    return list(dict.fromkeys(found))


def figures_of(compared: Compared, wanted: Iterable[str]) -> tuple[Figures, dict[str, str]]:
    """The wanted figures by name, and the reason why for those that cannot be computed."""
    names = set(wanted)
    found: Figures = {}
    missing: dict[str, str] = {}
    for metric in METRICS:
        asked = [figure.name for figure in metric.figures if figure.name in names]
        if not asked:
            continue
        if (why := metric.lacks(compared)) is not None:
            missing |= dict.fromkeys(asked, why)
            continue
        values = metric.compute(compared)
        found |= {name: values[name] for name in asked}
    return found, missing


def figures_by_class(compared: Compared, wanted: Iterable[str]) -> dict[int, Figures]:
    """The wanted figures of each class, those that mean something for its number of samples."""
    if compared.labels is None:
        return {}
    names, found = set(wanted), {}
    for label in sorted(set(compared.labels.tolist())):
        part = compared.of_class(label)
        figures: Figures = {}
        for metric in METRICS:
            asked = [figure.name for figure in metric.figures if figure.name in names]
            if asked and metric.few is not None and metric.lacks(part) is None and _enough(part, metric.few):
                values = metric.compute(part)
                figures |= {name: values[name] for name in asked}
        found[label] = figures
    return found


def _enough(part: Compared, few: Callable[[int], int]) -> bool:
    """True if a class has enough samples, and enough of its own in the reference if the metric compares with them."""
    fewest = few(part.features.shape[1])
    own = part.reference.features
    return len(part) >= fewest and (fewest <= 1 or (own is not None and len(own) >= fewest))
