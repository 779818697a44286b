"""The page of a store: one file that needs no network, made from its rows alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from string import Template
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd

from fastlab.figures.grammar import Figure
from fastlab.figures.layers import formats, gridlines, level, line
from fastlab.figures.panels import ENDS, OWN_ENDS, Axis, Panel
from fastlab.figures.style import GREY
from fastlab.figures.sweep import scatter
from fastlab.reading import nothing_measured, sample_summary, texts
from fastlab.record import Record
from fastlab.report import winner as choice
from fastlab.report.svg import inline
from fastlab.rows import QUESTION, compared
from fastlab.searches.result import pareto
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
ROWS = ("call", "recipe", "status", "n", "estimated_ms", "ratio", *FOUND)
STAGES = ("load", "distill", "shrink", "quantize", "prepare")
TIMES = (*STAGES, "compile_s", "first_call_s")  # seconds in a measurement
SAID = ("command", "copy_bytes_per_s", "device")  # of an environment, elsewhere
UNITS = {"loss": "more bits per byte, or KL", "weights_mb": "MB of weights"}


def page(store: Store, floor: float = choice.FLOOR) -> str:
    """The HTML of a store's rows; every text in it is escaped.

    floor: what the recommended recipe may lose, as `judged` has it. ValueError for a
    store without a row.
    """
    bad: list[BadLine] = []
    records, envs = [*store.each(samples=False, bad=bad)], store.envs()
    if not records:
        raise ValueError(f"{store.folder} holds no rows")
    rows = choice.judged(records, envs)
    for name in rows.select_dtypes(["object", "string"]):
        rows[name] = [printable(v) if isinstance(v, str) else v for v in rows[name]]
    main = choice.main_call(rows)
    best = choice.winner(main, floor)
    words = {
        "title": f"{store.folder.resolve().name}: which recipe is the fastest?",
        "verdict": verdict(main, best, floor) if len(main) else nothing_measured(rows),
        **question(rows, records, envs),
        **dict.fromkeys(("measure", "pack", "python"), "none to recommend"),
    }
    if best is not None:
        row = records[int(str(best.name))]
        how = row.point, envs.get(row.env, {})
        words |= {
            "measure": choice.command(how[0], "measure", how[1]),
            "pack": choice.command(how[0], "pack", how[1], "--to", "winner"),
            "python": choice.python(*how, "winner"),
        }
    lost = rows[rows["status"] != "ok"].groupby(["status", "reason"], sort=False)
    shown = {"call": ("call", "first"), "recipe": ("recipe", "first")}
    counts = lost.agg(rows=("key", "size"), **shown).reset_index()
    lines = f"Points without a time, {len(bad)} lines unread"
    parts = {name: _safe(said) for name, said in words.items()} | {
        "ladder": _ladder(main),
        "frontier": "".join(_frontier(main, column) for column in UNITS),
        "scores": _scores(compared(rows)),
        "stages": _table(stages(records, main), "Seconds before the timed calls"),
        "failures": _table(counts, lines),
        "rows": _table(rows[[*ROWS]], "All rows"),
    }
    template = files("fastlab.report").joinpath("page.html").read_text("utf-8")
    return Template(template).substitute(parts)


def _safe(words: object) -> str:
    return escape(printable(str(words)))


def verdict(main: pd.DataFrame, best: Any, floor: float) -> str:
    """The answer, in words."""
    where = f"{main['call'].iloc[0]} on {main['device'].iloc[0]}"
    if best is None:
        said = f"no recipe is known to lose at most {digits(floor)}"
        return f"At {where} {said}; the fastest is {main['recipe'].iloc[0]}."
    near = main["measured_low_ms"].astype(float) <= best["measured_high_ms"]
    tied = int((near & (main["loss"] <= floor)).sum()) - 1
    text = best["bits_per_byte"] == best["bits_per_byte"]
    share, base = f"{percent(best['loss'])} more bits per byte", main[main["baseline"]]
    lost = share if text else f"a KL of {digits(best['loss'])} nats"
    said = f"Take {best['recipe']} at {where}: {digits(best['measured_ms'])} ms, "
    said += f"{times(best['measured_gain'])} beside {base['recipe'].iloc[0]}"
    return f"{said}, with {lost}. The clock cannot tell {tied} more from it."


def question(
    rows: pd.DataFrame, records: Sequence[Record], envs: Mapping[str, Any]
) -> dict[str, str]:
    """What was asked, where, when and with what, in words."""
    many = {n: rows[n].astype(str).unique() for n in QUESTION if rows[n].nunique() > 1}
    few = {n: [*v[:6], *["..."] * (len(v) > 6)] for n, v in many.items()}
    values = [f"{n}: {', '.join(v)}" for n, v in few.items()]
    days = sorted(record.at_utc[:16] for record in records)
    software = [{n: v for n, v in e.items() if n not in SAID} for e in envs.values()]
    return {
        "points": f"{tally(records)}; {rows['which'].nunique()} calls",
        "varied": "; ".join(values) or "nothing",
        "device": "; ".join(rows["device"].unique()),
        "days": f"{days[0]} to {days[-1]} (UTC)",
        "samples": sample_summary(rows),
        "environment": "; ".join(dict.fromkeys(map(_plain, software))),
        "commands": "; ".join({str(e.get("command", "")): 0 for e in envs.values()}),
    }


def _plain(env: Mapping[str, Any]) -> str:
    return json.dumps(env).replace('"', "")


def _table(rows: pd.DataFrame, caption: str) -> str:
    """Rows as a table that scrolls on its own; the first ones of many."""
    if rows.empty:
        return f"<p>{_safe(caption)}: none.</p>"
    if len(rows) > LINES:
        caption += f": {LINES} of {len(rows)}, and all by `fastlab table`"
    known = rows[:LINES].replace({None: np.nan}).dropna(axis="columns", how="all")
    shown = texts(known).rename(columns=lambda name: str(name).replace("_", " "))
    markup = shown.to_html(index=False, border=0).replace("<th>", '<th scope="col">')
    head, body = markup.split(">", 1)
    said = _safe(caption)
    where = f'<div class="wide" tabindex="0" role="region" aria-label="{said}">'
    return f"{where}{head}><caption>{said}</caption>{body}</div>"


def _pair(figure: Figure, high: float, table: str) -> str:
    """A figure, and its table beside it where there is room."""
    drawn, title = inline(figure, (WIDTH, high)), _safe(figure.title)
    shown = f"<figure><figcaption>{title}</figcaption>{drawn}</figure>"
    return f'<div class="pair">{shown}{table}</div>'


def _some(many: int) -> set[int]:
    """Places of so many rows, evenly spaced: not all where that is too many."""
    return {*np.linspace(0, many - 1, min(many, MARKS)).astype(int)}


def ladder(main: pd.DataFrame) -> pd.DataFrame:
    """The rungs of a call, the fastest first: of many the plain one, those that no
    other beats in time and loss, then those that lose least.
    """
    own = main.drop_duplicates("recipe")
    first = pareto(own[["measured_ms", "loss"]].to_numpy(float)) | own["baseline"]
    kept = own["loss"].mask(first, -np.inf).sort_values(kind="stable").index[:RUNGS]
    return own[own.index.isin(kept)]


def _ladder(main: pd.DataFrame) -> str:
    rungs = ladder(main)
    if rungs.empty:
        return "<p>Nothing was measured.</p>"
    scale = rungs["measured_gain"] * rungs["measured_ms"]
    most, least = (scale / rungs[end].astype(float) for end in OWN_ENDS)
    rungs = rungs.assign(least=least, most=most)
    cut: dict[str, Any] = {"width": LETTERS, "max_lines": 2, "placeholder": " …"}
    names = {name: "\n".join(wrap(name, **cut)) for name in rungs["recipe"]}
    layers = [
        *formats(rungs, "estimated_gain", "recipe", name="", hollow=True),
        *formats(rungs, "measured_gain", "recipe", across=("least", "most")),
    ]
    lost = [digits(loss) if loss == loss else "?" for loss in rungs["loss"]]
    look: dict[str, Any] = {"decor": [level(1, "x"), gridlines("x")]}
    ticks = [2.0**n for n in range(-6, 10)]
    axis = Axis("times as fast as the plain recipe", "log", factor, ticks)
    panel = Panel(axis, Axis("", names=names), layers, notes=[("loss", lost)], **look)
    title = f"{len(rungs)} of {main['recipe'].nunique()} recipes of "
    title += f"{main['call'].iloc[0]}: filled = measured, hollow = estimated"
    table = _table(rungs[["recipe", *FOUND]], "The ladder")
    return _pair(Figure([panel], title, rungs), 1.2 + 0.38 * len(rungs), table)


def _frontier(main: pd.DataFrame, column: str) -> str:
    """ms against a column, log-log; those that no other beats are numbered."""
    known = main[main[column].notna()].astype({column: float})
    if len(known) < 2:
        return f"<p>Too few rows of one call have {column}.</p>"
    best = pd.Series(pareto(known[["measured_ms", column]].to_numpy()), known.index)
    above = known[column][known[column] > 0]
    edge = (float(above.min()) if len(above) else 1.0) / 3  # where nothing is lost
    numbers = np.where(best, best.cumsum().astype(str), "")
    known = known.assign(frontier=numbers, _at=known[column].clip(lower=edge))
    decades = [n for n in 10.0 ** np.arange(-9, 9) if 2 * edge < n < 2 * above.max()]
    ticks = [edge, *decades] if known[column].min() <= 0 else ()
    write = lambda v: digits(v) if v > edge else "0"  # noqa: E731
    axes = Axis(UNITS[column], "log", write, ticks), Axis("measured ms", "log")
    shown = known.iloc[sorted(_some(len(known)) | {*np.flatnonzero(best)})]
    look: dict[str, Any] = {"ends": OWN_ENDS, "words": "frontier", "size": 6}
    dots = line(known[best], "_at", "measured_ms", "frontier", color=GREY, dash=":")
    layers = [dots, *formats(shown, "_at", "measured_ms", **look)]
    title = f"{best.sum()} of {len(known)} rows of {known['call'].iloc[0]} are on it"
    figure = Figure([Panel(*axes, layers, decor=[gridlines()])], title, known)
    told = known[["recipe", "frontier", *FOUND]]
    return _pair(figure, 4.4, _table(told, f"measured ms against {column}"))


def scoreboard(known: pd.DataFrame) -> pd.DataFrame:
    """Of all rows, and of each precision and phase: the median of measured / estimated,
    the shares within a factor of 1.25, and within the estimate's own band.
    """
    names = ["measured_ms", *ENDS, "ratio"]
    ms, low, high, ratio = (known[name].astype(float) for name in names)
    near, inside = np.abs(np.log(ratio)) <= np.log(1.25), (low <= ms) & (ms <= high)
    own = known.assign(ratio=ratio, near=100.0 * near, inside=100.0 * inside, n=1)
    every = pd.concat([own.assign(precision="all", phase=""), own])
    how = {"n": "sum", "ratio": "median", "near": "mean", "inside": "mean"}
    found = every.groupby(["precision", "phase"], sort=False).agg(how).reset_index()
    return found.rename(columns={"near": "% within ×1.25", "inside": "% inside band"})


def _scores(known: pd.DataFrame) -> str:
    if known.empty:
        return "<p>No row has both an estimate and a measurement.</p>"
    found = scoreboard(known)
    _, _, n, ratio, near, inside = found.iloc[0]
    title = f"{n} rows: median factor {times(ratio)}, {near:.0f} % within ×1.25, "
    title += f"{inside:.0f} % inside their own band"
    figure = replace(scatter(known.iloc[sorted(_some(len(known)))]), title=title)
    return _pair(figure, 5.0, _table(found, "measured / estimated"))


def stages(records: Sequence[Record], main: pd.DataFrame) -> pd.DataFrame:
    """Seconds of what came before the timed calls of a call's rows, where known."""
    timed = [vars(records[n].measured) for n in main.index]
    lines = [{n: own["stages"].get(n, own.get(n)) for n in TIMES} for own in timed]
    seconds = pd.DataFrame(lines, main.index, [*TIMES], float)
    return main[["recipe"]].join(seconds)
