"""The page of a store: one file that needs no network, made from its rows alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from string import Template
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd

from fastlab.figures.grammar import Figure
from fastlab.figures.layers import formats, gridlines, level, line, stacked
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Panel
from fastlab.figures.style import GREY, STACKED
from fastlab.figures.sweep import scatter
from fastlab.reading import nothing_measured, sample_summary, texts
from fastlab.record import Record
from fastlab.report import winner as choice
from fastlab.report.svg import inline
from fastlab.rows import QUESTION, compared
from fastlab.sweeps.lines import BadLine
from fastlab.sweeps.run import tally
from fastlab.sweeps.store import Store
from fastlab.words import digits, factor, percent, printable, times

MARKS, LINES, RUNGS, LETTERS = 800, 100, 16, 24  # at most: of figures, tables, ladders
WIDTH = 5.0  # inches of a figure: on a phone its letters are as large as drawn
FOUND = (
    *("measured_ms", *OWN_ENDS, "measured_gain", "estimated_gain", "loss", "kl_nats"),
    *("top1", "bits_per_byte", "weights_mb", "flags"),
)
SAID = ("command", "copy_bytes_per_s", "device")  # of an environment, elsewhere
ROWS = ("call", "recipe", "status", "n", "estimated_ms", "ratio", *FOUND)
LOOKS = (*STACKED, ("#a96b59", "xx"), ("#ffffff", "oo"))
STAGES = (
    "load_s",
    "distill_s",
    "shrink_s",
    "quantize_s",
    "prepare_s",
    "compile_s",
    "first_call_s",
)


def page(store: Store, worse: float = choice.WORSE) -> str:
    """The HTML of a store's rows; every text in it is escaped.

    worse: what the recommended recipe may lose, as `judged` has it. ValueError for a
    store without a row.
    """
    bad: list[BadLine] = []
    records = [*store.each(samples=False, bad=bad)]
    if not records:
        raise ValueError(f"{store.folder} holds no rows")
    envs = store.envs()
    rows = choice.judged(records, envs).join(stages(records))
    for name in rows.select_dtypes(["object", "string"]):
        rows[name] = [printable(v) if isinstance(v, str) else v for v in rows[name]]
    main = choice.main_call(rows)
    best = choice.winner(main, worse)
    point = None if best is None else records[best.name].point
    texts = {
        "title": f"{store.folder.resolve().name}: which recipe is the fastest?",
        "verdict": verdict(rows, main, best, worse),
        **question(rows, records, envs.values()),
        "measure": point and choice.command(point, "measure"),
        "pack": point and choice.command(point, "pack", "--to", "winner"),
        "python": point and choice.python(point, "winner"),
    }
    parts = {
        "ladder": _ladder(main),
        "frontier": _frontier(main, "loss") + _frontier(main, "weights_mb"),
        "scores": _scores(rows),
        "stages": _stages(main),
        "failures": _failures(rows, len(bad)),
        "calls": _table(winners(rows, worse), "The winner of each call"),
        "rows": _table(rows[[*ROWS]], "All rows"),
    }
    safe = {name: _safe(words or "none to recommend") for name, words in texts.items()}
    template = files("fastlab.report").joinpath("page.html").read_text("utf-8")
    return Template(template).substitute(safe | parts)


def _safe(words: object) -> str:
    return escape(printable(str(words)))


def stages(records: Iterable[Record]) -> pd.DataFrame:
    """Seconds of what came before the timed calls, as far as each record has them."""
    lines = []
    for own in (record.measured for record in records):
        found = {f"{n}_s": s for n, s in own.stages.items()} if own else {}
        lines.append(found | {n: getattr(own, n, None) for n in STAGES[-2:]})
    return pd.DataFrame(lines, columns=[*STAGES], dtype=float).drop(columns="compile_s")


def verdict(rows: pd.DataFrame, main: pd.DataFrame, best: Any, worse: float) -> str:
    """The answer, in words."""
    if main.empty:
        return nothing_measured(rows).capitalize()
    where = f"{main['call'].iloc[0]} on {main['device'].iloc[0]}"
    if best is None:
        said = f"no recipe is known to lose at most {digits(worse)}"
        return f"At {where} {said}; the fastest is {main['recipe'].iloc[0]}."
    near = main["measured_low_ms"] <= best["measured_high_ms"]
    tied = int((near & (main["loss"] <= worse)).sum()) - 1
    by, base = times(best["measured_gain"]), main[main["baseline"]].iloc[0]
    text = best["bits_per_byte"] == best["bits_per_byte"]
    unit = "in bits per byte" if text else "nats of KL"
    lost = f"loses {(percent if text else digits)(best['loss'])} {unit}"
    said = f"Take {best['recipe']} at {where}: {digits(best['measured_ms'])} ms, {by} "
    lost = lost if best["loss"] > 0 else "loses nothing"
    said += f"beside {base['recipe']}, and it {lost}."
    return said + f" The clock cannot tell {tied} more from it." * (tied > 0)


def question(
    rows: pd.DataFrame, records: Sequence[Record], envs: Iterable[Mapping[str, Any]]
) -> dict[str, str]:
    """What was asked, where, when and with what, in words."""
    many = {n: rows[n].astype(str).unique() for n in QUESTION if rows[n].nunique() > 1}
    values = (
        f"{n}: {', '.join(v[:6])}{', ...' * (len(v) > 6)}" for n, v in many.items()
    )
    days = sorted(record.at_utc[:16] for record in records)
    software = [{n: v for n, v in env.items() if n not in SAID} for env in envs]
    return {
        "points": f"{tally(records)}; {rows['which'].nunique()} calls",
        "varied": "; ".join(values) or "nothing",
        "device": "; ".join(rows["device"].unique()),
        "days": f"{days[0]} to {days[-1]} (UTC)",
        "samples": sample_summary(rows),
        "environment": "; ".join(dict.fromkeys(map(json.dumps, software))).replace(
            '"', ""
        ),
        "commands": "; ".join(
            dict.fromkeys(str(env.get("command", "")) for env in envs)
        ),
    }


def _table(rows: pd.DataFrame, caption: str) -> str:
    """Rows as a table that scrolls on its own; the first ones of many."""
    rows = rows.dropna(axis="columns", how="all")
    if len(rows) > LINES:
        caption += f": {LINES} of {len(rows)}, and all by `fastlab table`"
    shown = texts(rows[:LINES].replace({None: np.nan}))
    markup = shown.rename(columns=lambda name: str(name).replace("_", " ")).to_html(
        index=False, border=0
    )
    head, body = markup.replace("<th>", '<th scope="col">').split(">", 1)
    where = (
        f'<div class="wide" tabindex="0" role="region" aria-label="{_safe(caption)}">'
    )
    return f"{where}{head}><caption>{_safe(caption)}</caption>{body}</div>"


def _pair(figure: Figure, high: float, table: str) -> str:
    """A figure, and its table beside it where there is room."""
    drawn, title = inline(figure, (WIDTH, high)), _safe(figure.title)
    shown = f"<figure><figcaption>{title}</figcaption>{drawn}</figure>"
    return f'<div class="pair">{shown}{table}</div>'


def _names(rows: pd.DataFrame) -> Axis:
    """Recipes as the names of lines, long ones cut."""
    cut: dict[str, Any] = {"width": LETTERS, "max_lines": 2, "placeholder": " …"}
    return Axis(
        "", names={name: "\n".join(wrap(name, **cut)) for name in rows["recipe"]}
    )


def ladder(main: pd.DataFrame) -> pd.DataFrame:
    """The rungs of a call, the fastest first: of many the plain one, those that no
    other beats in time and loss, then those that lose least.
    """
    own = main.drop_duplicates("recipe")
    first = choice.frontier(own, ["measured_ms", "loss"]) | own["baseline"]
    kept = own["loss"].mask(first, -np.inf).sort_values(kind="stable").index[:RUNGS]
    return own[own.index.isin(kept)]


def _ladder(main: pd.DataFrame) -> str:
    rungs = ladder(main)
    if rungs.empty:
        return "<p>Nothing was measured.</p>"
    gain = rungs["measured_gain"] * rungs["measured_ms"].astype(float)
    rungs = rungs.assign(
        least=gain / rungs[OWN_ENDS[1]], most=gain / rungs[OWN_ENDS[0]]
    )
    axis = Axis("times as fast as the plain recipe", "log", factor)
    layers = [
        *formats(rungs, "estimated_gain", "recipe", name="", hollow=True),
        *formats(rungs, "measured_gain", "recipe", across=("least", "most")),
    ]
    lost = [digits(loss) if loss == loss else "?" for loss in rungs["loss"]]
    decor = [level(1, "x"), gridlines("x")]
    panel = Panel(axis, _names(rungs), layers, notes=[("loss", lost)], decor=decor)
    title = f"{len(rungs)} of {main['recipe'].nunique()} recipes of "
    title += f"{main['call'].iloc[0]}: filled = measured, hollow = estimated"
    table = _table(rungs[["recipe", *FOUND]], "The ladder")
    return _pair(Figure([panel], title, rungs), 1.2 + 0.38 * len(rungs), table)


def _frontier(main: pd.DataFrame, column: str) -> str:
    """ms against a column, log-log; those that no other beats are numbered."""
    known = main[main[column].notna()].astype({column: float, "measured_ms": float})
    if len(known) < 2:
        return f"<p>Too few rows of one call have {column}.</p>"
    best = choice.frontier(known, ["measured_ms", column])
    numbers = np.where(best, best.cumsum().astype(str), "")
    above = known[column][known[column] > 0]
    floor = (float(above.min()) if len(above) else 1.0) / 3  # where nothing is lost
    known = known.assign(frontier=numbers, _at=known[column].clip(lower=floor))
    some = np.unique(np.linspace(0, len(known) - 1, MARKS).astype(int))
    shown = known.iloc[sorted({*some, *np.flatnonzero(best)})]
    units = {"loss": "more bits per byte, or KL", "weights_mb": "MB of weights"}
    axis = Axis(units[column], "log", lambda v: digits(v) if v > floor else "0")
    if known[column].min() <= 0:
        decades = [
            n for n in 10.0 ** np.arange(-9, 9) if 2 * floor < n < 2 * above.max()
        ]
        axis = replace(axis, ticks=[floor, *decades])
    ends: dict[str, Any] = {"ends": OWN_ENDS, "words": "frontier", "size": 6}
    dots = line(known[best], "_at", "measured_ms", "frontier", color=GREY, dash=":")
    layers = [dots, *formats(shown, "_at", "measured_ms", **ends)]
    panel = Panel(axis, Axis("measured ms", "log"), layers, decor=[gridlines()])
    title = f"{best.sum()} of {len(known)} rows of {known['call'].iloc[0]} are on it"
    table = _table(
        known[["recipe", "frontier", *FOUND]], f"measured ms against {column}"
    )
    return _pair(Figure([panel], title, known), 4.4, table)


def scoreboard(rows: pd.DataFrame) -> pd.DataFrame:
    """Of all rows, and of each precision and phase: the median of measured / estimated,
    the shares within a factor of 1.25, and within the estimate's own band.
    """
    ms, low, high, ratio = (
        rows[n].astype(float) for n in ("measured_ms", *ENDS, "ratio")
    )
    own = rows.assign(
        share_near=np.abs(np.log(ratio)) <= np.log(1.25),
        share_inside=(low <= ms) & (ms <= high),
        n=1,
    )
    every = pd.concat([own.assign(precision="all", phase=""), own])
    each = every.groupby(["precision", "phase"], sort=False)
    how = {"n": "sum", "ratio": "median", "share_near": "mean", "share_inside": "mean"}
    return each.agg(how).reset_index()


def _scores(rows: pd.DataFrame) -> str:
    known = compared(rows).astype({"ratio": float})
    if known.empty:
        return "<p>No row has both an estimate and a measurement.</p>"
    found = scoreboard(known)
    near, inside = (percent(found[n][0]) for n in ("share_near", "share_inside"))
    some = np.unique(np.linspace(0, len(known) - 1, MARKS).astype(int))
    title = (
        f"{len(known)} rows: median factor {times(found['ratio'][0])}, {near} within "
    )
    title += f"×1.25, {inside} inside their own band"
    for name in ("share_near", "share_inside"):
        found[name] = found[name].map(percent)
    figure = replace(scatter(known.iloc[some]), title=title)
    return _pair(figure, 5.0, _table(found, "Measured / estimated"))


def _stages(main: pd.DataFrame) -> str:
    names = [name for name in STAGES if main[name].notna().any()]
    if not names:
        return "<p>No row of this call has them.</p>"
    rows = ladder(main)
    shown = rows.assign(**{n: rows[n].astype(float).fillna(0) for n in names})
    looks = dict(zip(names, (*LOOKS, STACKED[0]), strict=False))
    panel = Panel(
        Axis("seconds"), _names(rows), stacked(shown, "recipe", looks, flat=True)
    )
    figure = Figure([panel], "Seconds, one stage after the other", rows)
    table = _table(rows[["recipe", *names]], "Seconds before the timed calls")
    return _pair(figure, 1.2 + 0.38 * len(rows), table)


def _failures(rows: pd.DataFrame, bad: int) -> str:
    lines = f"<p>{bad} lines of the store could not be read.</p>" * (bad > 0)
    lost = rows[rows["status"] != "ok"]
    if lost.empty:
        return lines or "<p>Nothing: all was measured.</p>"
    counts = lost.groupby(["status", "reason"], sort=False).agg(
        rows=("key", "size"), call=("call", "first"), recipe=("recipe", "first")
    )
    return lines + _table(counts.reset_index(), "Points without a time, by reason")


def winners(rows: pd.DataFrame, worse: float) -> pd.DataFrame:
    """The fastest row of each call that loses at most `worse`; most recipes first."""
    fit = rows[(rows["loss"] <= worse) & rows["measured_ms"].notna()]
    each = fit.astype({"measured_ms": float}).groupby("which", sort=False)
    found = fit.loc[each["measured_ms"].idxmin()]
    known = rows[rows["measured_ms"].notna()].groupby("which")["recipe"].nunique()
    found = found.assign(recipes=found["which"].map(known))
    return found.sort_values("recipes", ascending=False, kind="stable")[
        ["call", "recipes", "recipe", *FOUND]
    ]
