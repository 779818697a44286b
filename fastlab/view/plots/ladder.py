"""The figure of the ladder: a bar for each rung, its estimate, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from fastlab.view.numbers import factor, power
from fastlab.view.style import COLORS, GREY, PALE, SMALL, TEXT, TITLE
from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Beside the bars: heading and width of each column; of MBU only what is known.
COLUMNS = {
    "× eager\n(predicted)": 0.25,
    "× fastest\ndense": 0.15,
    "MBU of the\ndatasheet": 0.17,
    "MBU of\na copy": 0.12,
    "to\ncompile": 0.12,
    "KL to fp32,\nnats": 0.19,
}
SHEET = "MBU of the\ndatasheet"
BAR, GAP = 0.66, 0.35  # heights: of a bar, and between two groups
GROUPS = {"generate": "whole generations of 64 tokens, prefill included"}
LABELS = {
    "no cache": "eager, no cache",
    "dynamic": "eager, dynamic cache",
    "static": "eager, static cache",
    "compiled": "torch.compile, static cache",
}
WHY = 52  # characters of a reason that is written where a bar would be


def rungs(table: pd.DataFrame, title: str) -> Figure:
    """Tokens per second of each rung: bars measured, hollow triangles estimated.

    `table` is tables.rungs_of(). Groups are precisions, then whole generations. A rung
    that cannot run says why; a bar with a hatch was measured with too much spread.
    """
    placed = placing(table)
    height = 1.9 + 0.33 * (placed["y"].max() + 1 if len(placed) else 1)
    figure = Figure(figsize=(12.6, height), layout="constrained")
    axes, beside = figure.subplots(1, 2, width_ratios=[1.25, 1.0], sharey=True)
    most, columns = longest(table), columns_of(table)
    for _, row in placed.iterrows():
        _rung(axes, row, most)
        _numbers(beside, row, columns)
    _groups(axes, placed)
    _headings(beside, columns)
    axes.set_yticks(placed["y"], placed["rung"].map(label).tolist(), fontsize=TEXT)
    axes.set(xlim=(0, 1.12 * most), ylim=(placed["y"].max() + 0.8, -1.0))
    axes.set_xlabel("tokens per second (△ estimated, with its interval)", fontsize=TEXT)
    axes.set_title(title, fontsize=TITLE, loc="left", pad=22)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=SMALL, color=GREY)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(True, axis="x", color="#eeeeee", lw=0.8)
    axes.set_axisbelow(True)
    return figure


def columns_of(table: pd.DataFrame) -> dict[str, float]:
    """Where each column of numbers begins, as a share of the width of all."""
    known = table["mbu"].notna().any()
    widths = {n: w for n, w in COLUMNS.items() if n != SHEET or known}
    starts = np.cumsum([0.0, *widths.values()]) / sum(widths.values())
    return dict(zip(widths, starts[:-1].tolist(), strict=True))


def label(rung: str) -> str:
    """A rung's name as readers see it, within its group."""
    return LABELS.get(rung, rung.removeprefix("generate, "))


def placing(table: pd.DataFrame) -> pd.DataFrame:
    """The rows group by group, with the height `y` at which each stands."""
    groups = [_group(row) for _, row in table.iterrows()]
    order = list(dict.fromkeys(sorted(groups, key=lambda g: g in GROUPS.values())))
    rank = [order.index(group) for group in groups]
    placed = table.assign(group=groups, rank=rank).sort_values("rank", kind="stable")
    return placed.assign(y=np.arange(len(placed)) + (1 + GAP) * (placed["rank"]))


def _group(row: pd.Series) -> str:
    return GROUPS.get(row["phase"], row["precision"])


def longest(table: pd.DataFrame) -> float:
    """The most tokens per second of a table, measured or estimated; 1 if none."""
    known = table[["estimated_per_s", "tokens_per_s"]].to_numpy(float)
    return float(np.nanmax(known)) if np.isfinite(known).any() else 1.0


def _rung(axes: Axes, row: pd.Series, most: float) -> None:
    color, y = COLORS[row["precision"]], row["y"]
    if _known(row["tokens_per_s"]):
        noisy = "noisy" in str(row["flags"])
        look: dict[str, Any] = {"color": color, "height": BAR, "alpha": 0.88}
        look |= {"hatch": "////", "edgecolor": "white", "lw": 0} if noisy else {}
        axes.barh(y, row["tokens_per_s"], **look)
        ends = [row["measured_low_per_s"], row["measured_high_per_s"]]
        axes.plot(ends, [y, y], color=GREY, lw=1.2)
    else:
        style: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "va": "center"}
        axes.text(0.01 * most, y, why(row), style="italic", **style)
        return
    if _known(row["estimated_per_s"]):
        over = "#dddddd" if color == "#000000" else "black"
        ends = [row["estimated_low_per_s"], min(row["estimated_high_per_s"], 9 * most)]
        axes.plot(ends, [y, y], color=over, lw=0.9, alpha=0.7)
        hollow: dict[str, Any] = {"mfc": "white", "mec": "black", "ms": 8, "ls": "none"}
        axes.plot([row["estimated_per_s"]], [y], "^", zorder=4, **hollow)
    right = np.nanmax([row["tokens_per_s"], row["estimated_high_per_s"]])
    text, at = digits(row["tokens_per_s"]), (right, y)
    style = {"fontsize": SMALL, "va": "center", "fontweight": "bold"}
    axes.annotate(text, at, (9, 0), textcoords="offset points", **style)


def why(row: pd.Series) -> str:
    """In few words why a rung has no bar: its status and reason."""
    reason = row["reason"].removeprefix("runtime graph ").partition(":")[0]
    text = f"{row['status']}: {reason}"
    return text if len(text) <= WHY else text[: WHY - 1].rstrip() + "…"


def _known(value: Any) -> bool:
    return value is not None and bool(np.isfinite(float(value)))


def _numbers(axes: Axes, row: pd.Series, columns: Mapping[str, float]) -> None:
    if not _known(row["tokens_per_s"]):
        return
    style: dict[str, Any] = {"fontsize": SMALL, "va": "center"}
    for name, text in numbers(row).items():
        if name in columns:
            axes.text(columns[name], row["y"], text, **style)


def numbers(row: pd.Series) -> dict[str, str]:
    """What is written beside a bar, by the names in COLUMNS; "–" where unknown."""
    gained = factor(row["speedup"]) if _known(row["speedup"]) else "–"
    if _known(row["predicted_speedup"]) and _known(row["speedup"]):
        gained += f"  ({factor(row['predicted_speedup'])})"
    used = [
        f"{row[name]:.0%}" if _known(row[name]) else "–" for name in ("mbu", "mbu_copy")
    ]
    spent = f"{row['compile_s']:.0f} s" if _known(row["compile_s"]) else "–"
    dense = factor(row["over_dense"]) if _known(row["over_dense"]) else "–"
    return dict(zip(COLUMNS, [gained, dense, *used, spent, _loss(row)], strict=True))


def _loss(row: pd.Series) -> str:
    if not _known(row["kl_nats"]):
        return "–"
    if row["kl_nats"] == 0:
        return "0 (reference)"
    return power(row["kl_nats"])


def _groups(axes: Axes, placed: pd.DataFrame) -> None:
    for group, rows in placed.groupby("group", sort=False):
        y = rows["y"].min() - 0.85
        style: dict[str, Any] = {"fontsize": TEXT, "fontweight": "bold", "va": "center"}
        style["color"] = COLORS.get(str(group), "black")
        axes.text(0, y, str(group), **style)
        axes.axhspan(y - 0.45, y + 0.4, color=PALE, lw=0, zorder=0, alpha=0.5)


def _headings(axes: Axes, columns: Mapping[str, float]) -> None:
    axes.set_axis_off()
    style: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "va": "bottom"}
    for text, x in columns.items():
        axes.annotate(text, (x, 1.0), xycoords=("data", "axes fraction"), **style)
    axes.set_xlim(0, 1)
