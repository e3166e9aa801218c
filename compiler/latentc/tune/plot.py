"""Plots quality against latency: a panel per quality, with the Pareto front and a ring around the chosen candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentc.faults import needed
from latentc.tune.budget import Measured, front
from latentc.tune.report import Tuned

PANELS = 3  # most qualities that are drawn
_INK, _FRONT, _CHOSEN, _OWN = "#4a5568", "#1f6feb", "#d1242f", "#1a7f37"


def need_matplotlib() -> Any:
    """matplotlib, or DiagnosticError E0706; called before the search begins."""
    return needed("matplotlib", "the plot", 'pip install "latentc[plots]"')


def write_plot(tuned: Tuned, folder: Path) -> None:
    """Writes `pareto.svg` and `pareto.png` into the folder."""
    need_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = _panels(tuned)
    with rc_context({"svg.hashsalt": "latentc", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(5.6 * len(names), 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        for i, name in enumerate(names):
            _panel(figure.add_subplot(1, len(names), i + 1), tuned, name)
        asked = ", ".join(map(str, tuned.bounds))
        figure.suptitle(f"{tuned.name} on {tuned.device}: budget {asked}", fontsize=10)
        figure.savefig(folder / "pareto.svg", metadata={"Date": None})
        figure.savefig(folder / "pareto.png", dpi=160)


def _panels(tuned: Tuned) -> list[str]:
    """The qualities to draw: the primary one, those with a bound, then the others but PSNR, which repeats the error."""
    bounded = [bound.name for bound in tuned.bounds if bound.name in tuned.own.quality]
    others = [name for name in tuned.own.quality if name != "psnr"]
    return list(dict.fromkeys([tuned.primary, *bounded, *others]))[:PANELS]


def _panel(axes: Any, tuned: Tuned, name: str) -> None:
    sign = -1.0 if name in tuned.higher else 1.0
    points = [(m.seconds * 1e3, m.quality[name]) for m in tuned.measured]
    best = front([(x, sign * y) for x, y in points])
    axes.scatter(*zip(*points, strict=True), s=22, color=_INK, alpha=0.55, linewidths=0, label="compiled and measured")
    axes.plot(*zip(*(points[i] for i in best), strict=True), "o-", color=_FRONT, ms=5, lw=1.2, label="front")
    own = tuned.measured.index(tuned.own)
    axes.plot(*points[own], "s", color=_OWN, ms=6, label=f"the spec's own ({tuned.own.evaluations})")
    if tuned.chosen is not None:
        ring = points[tuned.measured.index(tuned.chosen)]
        axes.plot(*ring, "o", ms=13, mfc="none", mec=_CHOSEN, mew=1.8, label=f"chosen: {_words(tuned.chosen)}")
    for bound in tuned.bounds:
        if bound.name == name:
            limit = bound.value * (tuned.own.quality[name] if bound.relative else 1.0)
            axes.axhline(limit, color=_CHOSEN, lw=0.8, ls=(0, (4, 3)), label=f"budget {bound}")
    positive = [y for _, y in points if y > 0]
    _logarithmic(axes.set_xscale, axes.xaxis)
    if len(positive) == len(points) and max(positive) > 8 * min(positive):
        _logarithmic(axes.set_yscale, axes.yaxis)
    _label_counts(axes, tuned, points, best)
    axes.set_xlabel(f"milliseconds for {tuned.batch} sample{'s' if tuned.batch > 1 else ''}")
    axes.set_ylabel(f"{name} ({'higher' if name in tuned.higher else 'lower'} is better)")
    axes.grid(True, which="major", color="#d0d7de", lw=0.6)
    # Below the axes, where it covers no point.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=7.5, frameon=False)


def _logarithmic(set_scale: Any, axis: Any) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=30))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _label_counts(axes: Any, tuned: Tuned, points: list[tuple[float, float]], best: list[int]) -> None:
    """The evaluations of the front's points, once each, at the best of them."""
    last = {tuned.measured[i].evaluations: i for i in best}
    for evaluations, i in last.items():
        axes.annotate(str(evaluations), points[i], xytext=(5, 5), textcoords="offset points", fontsize=8, color=_FRONT)


def _words(m: Measured) -> str:
    return f"{m.candidate.name()}, {m.evaluations} evaluation{'s' if m.evaluations > 1 else ''}"
