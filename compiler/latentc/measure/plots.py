"""The style of plots: panels side by side above one legend, as SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from latentc.diagnostics.faults import needed

INK, FRONT, CHOSEN, OWN = "#4a5568", "#1f6feb", "#d1242f", "#1a7f37"
WIDTH, HEIGHT = 5.6, 4.8  # inches of a panel
LETTERS = 12  # of a label in an inch


def need_matplotlib() -> Any:
    """matplotlib, or DiagnosticError E0706; called before long work begins."""
    return needed("matplotlib", "the plot", 'pip install "latentc[plots]"')


def need_adjust_text() -> Any:
    """adjustText, or DiagnosticError E0706; called before long work begins."""
    return needed("adjustText", "the plot", 'pip install "latentc[league]"')


def write_figure(drawn: Callable[[], Any], path: Path) -> None:
    """Writes a figure, drawn in the style, to `path` with the suffixes .svg and .png."""
    need_matplotlib()
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "latentc", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = drawn()
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), dpi=160)


def panels(count: int, draw: Callable[[Any, int], None], title: str) -> Any:
    """A figure of `count` panels, each drawn by `draw(axes, i)`, above one legend, which covers no point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH * count, HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    entries: dict[str, Any] = {}
    for i in range(count):
        axes = figure.add_subplot(1, count, i + 1)
        draw(axes, i)
        axes.grid(True, which="major", color="#d0d7de", lw=0.6)
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.suptitle(title, fontsize=10, wrap=True)
    _legend(figure, entries)
    return figure


def _legend(figure: Any, entries: dict[str, Any]) -> None:
    """The legend below the panels, in as many columns as fit into the figure; labels that do not fit are wrapped."""
    entries = {fill(label, int(LETTERS * figure.get_figwidth())): handle for label, handle in entries.items()}
    where = {"loc": "outside lower center", "fontsize": 8, "frameon": False}
    for columns in range(len(entries), 0, -1):
        legend = figure.legend(entries.values(), entries, ncols=columns, **where)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def apart(figure: Any, names: Sequence[Any]) -> None:
    """Moves `names`, texts at the points they name, so that none covers another or a point; far ones get a line."""
    texts = need_adjust_text()
    for _ in range(2):  # the layout depends on the size of labels, which depends on the layout
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        own = [name for name in names if name.axes is axes]
        if not own:
            continue
        x, y = zip(*(name.get_position() for name in own), strict=True)
        arrow, objects = {"arrowstyle": "-", "color": INK, "lw": 0.5}, axes.get_lines()
        texts.adjust_text(own, x, y, objects=objects, ax=axes, expand=(1.2, 1.5), arrowprops=arrow)


def logarithmic(set_scale: Any, axis: Any) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=30))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
