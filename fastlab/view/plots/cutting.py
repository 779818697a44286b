"""The explorer's figure: what a pruning builds, and what that should cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fastlab.view.plots.pruning import CUTS
from fastlab.view.style import GREY, PALE, SMALL, TEXT, TITLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Size(NamedTuple):
    """One quantity before and after a cut, as text, with ends where it is uncertain."""

    before: float
    after: float
    words: str
    ends: tuple[float, float] | None = None
    measured: float | None = None


def cut_sizes(
    shape: Mapping[str, Size], costs: Mapping[str, Size], title: str
) -> Figure:
    """Two panels of bars: what is left of the shape, and of what it costs, in %.

    Grey outlines are the dense model; a thin bar is an estimate's interval, a filled
    mark a measurement.
    """
    figure = Figure(figsize=(11.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bars(left, shape, {name: CUTS[name][0] for name in shape})
    _bars(right, costs, dict.fromkeys(costs, "#0072B2"))
    left.set_title(title, fontsize=TITLE, loc="left")
    right.set_title("what it should cost", fontsize=TITLE, loc="left")
    return figure


def _bars(axes: Axes, sizes: Mapping[str, Size], colors: Mapping[str, str]) -> None:
    names = list(sizes)[::-1]
    for y, name in enumerate(names):
        _bar(axes, y, sizes[name], colors[name])
    axes.set_yticks(range(len(names)), names, fontsize=TEXT)
    axes.set(xlim=(0, 1.6), ylim=(-0.6, len(names) - 0.4))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    axes.set_xlabel("of the dense model's", fontsize=TEXT)
    axes.tick_params(axis="x", labelsize=SMALL, color=GREY)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _bar(axes: Axes, y: int, size: Size, color: str) -> None:
    look: dict[str, Any] = {"height": 0.56}
    axes.barh(y, 1, color=PALE, edgecolor=GREY, lw=0.8, **look)
    axes.barh(y, size.after / size.before, color=color, alpha=0.85, **look)
    if size.ends is not None:
        ends = [end / size.before for end in size.ends]
        axes.plot(ends, [y, y], color="black", lw=3, alpha=0.6)
    if size.measured is not None:
        axes.plot([size.measured / size.before], [y], "o", color="black", ms=8)
    axes.text(1.03, y, size.words, va="center", fontsize=SMALL)
