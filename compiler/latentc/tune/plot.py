"""Plots quality against latency: a panel per quality, with the Pareto front and a ring around the chosen candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentc.diagnostics.faults import needed
from latentc.tune.budget import front
from latentc.tune.report import Tuned

PANELS = 3  # largest number of qualities drawn
_INK, _FRONT, _CHOSEN, _OWN = "#4a5568", "#1f6feb", "#d1242f", "#1a7f37"


def need_matplotlib() -> Any:
    """matplotlib, or DiagnosticError E0706; called before the search begins."""
    return needed("matplotlib", "the plot", 'pip install "latentc[plots]"')


def write_plot(tuned: Tuned, folder: Path) -> None:
    """Writes `pareto.svg` and `pareto.png` into the folder."""
    need_matplotlib()
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "latentc", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = drawn(tuned)
        figure.savefig(folder / "pareto.svg", metadata={"Date": None})
        figure.savefig(folder / "pareto.png", dpi=160)


def drawn(tuned: Tuned) -> Any:
    """The figure: panels side by side above one legend, which covers no point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = _panels(tuned)
    figure = Figure(figsize=(5.6 * len(names), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    entries: dict[str, Any] = {}
    for i, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), i + 1)
        _panel(axes, tuned, name)
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.suptitle(f"{tuned.name} on {tuned.device}: budget {tuned.goal}", fontsize=10)
    columns = 2 if len(names) == 1 else len(entries)
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    return figure


def _panels(tuned: Tuned) -> list[str]:
    """The qualities to draw: the primary one, those with a bound, then the others but PSNR, which repeats the error."""
    bounded = [bound.name for bound in tuned.goal.bounds if bound.name in tuned.own.quality]
    others = [name for name in tuned.own.quality if name != "psnr"]
    return list(dict.fromkeys([tuned.goal.primary, *bounded, *others]))[:PANELS]


def _panel(axes: Any, tuned: Tuned, name: str) -> None:
    higher, chosen = name in tuned.goal.higher, tuned.chosen
    points = [(m.seconds * 1e3, m.quality[name]) for m in tuned.measured]
    best = front([(x, -y if higher else y) for x, y in points])
    axes.scatter(*zip(*points, strict=True), s=22, color=_INK, alpha=0.55, linewidths=0, label="compiled and measured")
    axes.plot(*zip(*(points[i] for i in best), strict=True), "o-", color=_FRONT, ms=5, lw=1.2, label="Pareto front")
    own = points[tuned.measured.index(tuned.own)]
    axes.plot(*own, "s", color=_OWN, ms=6, label=f"the spec's own ({tuned.own.evaluations} evaluations)")
    if chosen is not None:
        ring = points[tuned.measured.index(chosen)]
        label = f"chosen: {chosen.candidate.name()} ({chosen.evaluations} evaluations)"
        axes.plot(*ring, "o", ms=13, mfc="none", mec=_CHOSEN, mew=1.8, label=label)
    for bound in tuned.goal.bounds:
        if bound.name == name:
            axes.axhline(
                bound.limit(tuned.own.figure(name)), color=_CHOSEN, lw=0.8, ls=(0, (4, 3)), label=f"budget {bound}"
            )
    values = [y for _, y in points]
    _logarithmic(axes.set_xscale, axes.xaxis)
    if min(values) > 0 and max(values) > 8 * min(values):
        _logarithmic(axes.set_yscale, axes.yaxis)
    # The evaluation counts of the front's points, each once, at the best of them.
    for evaluations, i in {tuned.measured[i].evaluations: i for i in best}.items():
        axes.annotate(str(evaluations), points[i], xytext=(5, 5), textcoords="offset points", fontsize=8, color=_FRONT)
    axes.set_xlabel(f"milliseconds for {tuned.batch} sample{'s' if tuned.batch > 1 else ''}")
    axes.set_ylabel(f"{name} ({'higher' if higher else 'lower'} is better)")
    axes.grid(True, which="major", color="#d0d7de", lw=0.6)


def _logarithmic(set_scale: Any, axis: Any) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=30))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
