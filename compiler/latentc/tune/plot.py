"""Plots quality against latency: a panel per quality, with the Pareto front and a ring around the chosen candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentc.measure.plots import CHOSEN, FRONT, INK, OWN, logarithmic, panels, write_figure
from latentc.tune.budget import front
from latentc.tune.report import Tuned

PANELS = 3  # largest number of qualities drawn


def write_plot(tuned: Tuned, folder: Path) -> None:
    """Writes `pareto.svg` and `pareto.png` into the folder."""
    write_figure(lambda: drawn(tuned), folder / "pareto")


def drawn(tuned: Tuned) -> Any:
    """The figure: panels side by side above one legend, which covers no point."""
    names = _panels(tuned)
    title = f"{tuned.name} on {tuned.device}: budget {tuned.goal}"
    return panels(len(names), lambda axes, i: _panel(axes, tuned, names[i]), title)


def _panels(tuned: Tuned) -> list[str]:
    """The qualities to draw: the primary one, those with a bound, then the others but PSNR, which repeats the error."""
    bounded = [bound.name for bound in tuned.goal.bounds if bound.name in tuned.own.quality]
    others = [name for name in tuned.own.quality if name != "psnr"]
    return list(dict.fromkeys([tuned.goal.primary, *bounded, *others]))[:PANELS]


def _panel(axes: Any, tuned: Tuned, name: str) -> None:
    higher, chosen = name in tuned.goal.higher, tuned.chosen
    points = [(m.seconds * 1e3, m.quality[name]) for m in tuned.measured]
    best = front([(x, -y if higher else y) for x, y in points])
    axes.scatter(*zip(*points, strict=True), s=22, color=INK, alpha=0.55, linewidths=0, label="compiled and measured")
    axes.plot(*zip(*(points[i] for i in best), strict=True), "o-", color=FRONT, ms=5, lw=1.2, label="Pareto front")
    own = points[tuned.measured.index(tuned.own)]
    axes.plot(*own, "s", color=OWN, ms=6, label=f"the spec's own ({tuned.own.evaluations} evaluations)")
    if chosen is not None:
        ring = points[tuned.measured.index(chosen)]
        label = f"chosen: {chosen.candidate.name()} ({chosen.evaluations} evaluations)"
        axes.plot(*ring, "o", ms=13, mfc="none", mec=CHOSEN, mew=1.8, label=label)
    for bound in tuned.goal.bounds:
        if bound.name == name:
            axes.axhline(
                bound.limit(tuned.own.figure(name)), color=CHOSEN, lw=0.8, ls=(0, (4, 3)), label=f"budget {bound}"
            )
    values = [y for _, y in points]
    logarithmic(axes.set_xscale, axes.xaxis)
    if min(values) > 0 and max(values) > 8 * min(values):
        logarithmic(axes.set_yscale, axes.yaxis)
    # The evaluation counts of the front's points, each once, at the best of them.
    for evaluations, i in {tuned.measured[i].evaluations: i for i in best}.items():
        axes.annotate(str(evaluations), points[i], xytext=(5, 5), textcoords="offset points", fontsize=8, color=FRONT)
    axes.set_xlabel(f"milliseconds for {tuned.batch} sample{'s' if tuned.batch > 1 else ''}")
    axes.set_ylabel(f"{name} ({'higher' if higher else 'lower'} is better)")
