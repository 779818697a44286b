"""Traps in timing code: samples as they came, few of them, drift, and first calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fastlab.clock import stats
from fastlab.clock.drift import TRUE_MEDIAN, Simulated, resampled
from fastlab.figures.explorer import Explorer, explore
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import drawn, level, line, points
from fastlab.figures.panels import Axis, Panel
from fastlab.figures.style import BLACK, FAINT, GREY, PALE, SMALL
from fastlab.machine import device_name
from fastlab.record import Measurement
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point
from fastlab.sweeps.reference import references
from fastlab.sweeps.store import Store
from fastlab.words import digits, factor, percent, times

if TYPE_CHECKING:
    from fastlab.clock.traps import Series

# The trap comes first, and is grey; what is measured with care is black.
LOOKS = ({"color": GREY, "marker": "^"}, {"color": BLACK, "marker": "o"})
DASHES = {"you report": (GREY, "--"), "all of ours": (BLACK, "-")}
SIZES = (3, 10, 30, 100)  # sample counts that people use
FAR = 0.05  # a median that is off by more than this fraction
FACTORS = (1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 30, 100, 300, 1000)  # on an axis
TRIES, INTERVALS = 100, 60  # drawn of each size, and in each panel
MS = Axis("milliseconds: log scale", "log")
STOPPED = {
    "converged": "the interval was narrow enough",
    "n_max": "the most samples allowed were taken",
    "budget": "the time for sampling was spent",
}


# --- figures


def strips(series: Sequence[Series]) -> Figure:
    """Every sample in the order taken, beside its ECDF; two series, ms on a log axis.

    The trap comes first. First calls are hollow and ringed; the bar runs from p10 to
    p90 where 64 samples or more allow it, the dash in it is the median.
    """
    left, right, told = [], [], []
    for place, one in enumerate(series):
        rows, ends = _samples(one), ("median_ms", "p10_ms", "p90_ms")
        draw = partial(_strip, place=place, first=one.first)
        left.append(drawn(draw, rows, "series", "ms", one.name, ends=ends))
        look: Any = {"color": LOOKS[place]["color"], "dash": ("--", "-")[place]}
        look["steps"] = True
        right.append(line(rows.sort_values("share"), "share", "ms", one.name, **look))
        called = f", first call {digits(rows['ms'][0])} ms" if one.first else ""
        told.append(f"{one.name}: median {digits(rows['median_ms'][0])} ms{called}")
    names = Axis("every sample, in the order taken", names=[one.name for one in series])
    share = Axis("share of samples below", "linear", percent, (0, 0.5, 1), (0, 1))
    panels = [Panel(names, MS, left), Panel(share, MS, right)]
    look = {"widths": (1.7, 1), "share": "y", "size": (10, 4.8)}
    rows = pd.concat([layer.rows for layer in left], ignore_index=True)
    return Figure(panels, "; ".join(told), rows, key="outside lower center", **look)


def _samples(one: Series) -> pd.DataFrame:
    """Each sample with the share of all that is not above it; median, p10 and p90."""
    ms = np.array(one.ns) / 1e6
    found, order = stats.summary(ms), np.argsort(np.argsort(ms, kind="stable"))
    columns = {"series": one.name, "call": range(1, len(ms) + 1), "ms": ms}
    ends = {"p10_ms": found.p10, "p90_ms": found.p90}
    rows = pd.DataFrame(columns | {"share": (order + 1) / len(ms)} | ends)
    return rows.assign(median_ms=found.median).astype(dict.fromkeys(ends, float))


def _strip(axes: Any, rows: pd.DataFrame, place: int, first: int) -> None:
    ms, color, bar = rows["ms"].to_numpy(float), LOOKS[place]["color"], place + 0.3
    at = place - 0.37 + np.linspace(0, 0.6, len(ms))
    dots: dict[str, Any] = {"s": 16, "alpha": 0.5, "lw": 0, **LOOKS[place]}
    axes.scatter(at[first:], ms[first:], **dots)
    if first:
        ring: dict[str, Any] = {"s": 60, "fc": "none", "ec": color, "lw": 1.4}
        axes.scatter(at[:first], ms[:first], marker="D", **ring)
        note: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL}
        note |= {"bbox": {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1}}
        axes.annotate("first calls", (at[0], ms[0]), (9, 7), color=color, **note)
    middle, *ends = rows.iloc[0][["median_ms", "p10_ms", "p90_ms"]]
    axes.plot([bar, bar], ends, color=color, lw=3, alpha=0.5)
    axes.plot([bar - 0.03, bar + 0.03], [middle] * 2, color=color, lw=3)
    text: dict[str, Any] = {"color": color, "va": "center", "fontsize": SMALL}
    axes.text(bar + 0.05, middle, f"{digits(middle)} ms\nn = {len(ms)}", **text)


def sample_size_effect(series: Series, sizes: Sequence[int] = SIZES) -> Figure:
    """Medians of few samples over that of all: dots, and where 90 % of them lie.

    The pale band is within 5 % of the full sample's median.
    """
    medians = np.array([resampled(series.ns, n) for n in sizes])
    low, middle, high = np.quantile(medians, (0.05, 0.5, 0.95), axis=1)
    off = np.mean(np.abs(medians - 1) > FAR, axis=1)
    columns = {"samples": sizes, "low": low, "median": middle, "high": high, "off": off}
    summary, tries = pd.DataFrame(columns), pd.DataFrame(medians[:, :TRIES].T)
    tries = tries.set_axis(sizes, axis=1).melt(var_name="samples", value_name="ratio")
    label = f"median of few / median of all {len(series.ns)}"
    far, strayed = f"{100 * FAR:g} %", [percent(share) for share in off]
    panel = Panel(
        Axis(label, "log", factor, _round(tries["ratio"].min(), tries["ratio"].max())),
        Axis("", names={str(n): f"{n} samples" for n in sizes}),
        [
            drawn(_dots, tries, "ratio", "samples", "tries", write=times),
            drawn(_spans, summary, "median", "samples", ends=("low", "high")),
        ],
        notes=[(f"off by more\nthan {far}", strayed)],
        decor=[lambda axes: axes.axvspan(1 - FAR, 1 + FAR, color=PALE), level(1, "x")],
    )
    title = (
        f"off by more than {far}: {strayed[0]} of medians of {sizes[0]}, {strayed[-1]} "
        f"of those of {sizes[-1]}\ndots: what you would have reported; bar: 90 % of it"
    )
    rows = pd.concat([summary, tries], ignore_index=True)
    return Figure([panel], title, rows, (9.4, 4.2))


def _round(low: float, high: float) -> list[float]:
    """A few round factors on either side of one, none too close to it."""
    low, high = min(low, 1 - FAR), max(high, 1 + FAR)
    apart = [f for f in FACTORS if f > (high / low) ** 0.08]
    up, down = ([f for f in apart if f < end * 1.01][-3:] for end in (high, 1 / low))
    return [*(1 / f for f in down), 1, *up]


def _dots(axes: Any, rows: pd.DataFrame) -> None:
    for place, (_, own) in enumerate(rows.groupby("samples", sort=False)):
        at = place + np.linspace(-0.28, 0.28, len(own))
        axes.scatter(own["ratio"], at, s=11, color=GREY, alpha=0.5, lw=0)


def _spans(axes: Any, rows: pd.DataFrame) -> None:
    at = range(len(rows))
    axes.hlines(at, rows["low"], rows["high"], color=BLACK, lw=3)
    axes.plot(rows["median"], at, "|", color=BLACK, ms=16)


def intervals(simulations: Sequence[Simulated]) -> Figure:
    """Sixty simulated intervals in each panel; those that miss the truth stand out.

    Drawn are those with the most correlated noise; the table has all of them.
    """
    worst = max(one.correlation for one in simulations)
    panels = [_dance(one) for one in simulations if one.correlation == worst]
    drawn_rows = [layer.rows for panel in panels for layer in panel.layers]
    title = f"simulated, neighbours correlate by {worst:g}: thick lines miss the truth"
    rows = pd.concat([simulated(simulations), *drawn_rows], ignore_index=True)
    return Figure(panels, title, rows, (10, 4.4), share="xy")


def _dance(one: Simulated) -> Panel:
    columns = {"interval": one.interval, "low": one.low, "high": one.high}
    rows = pd.DataFrame(columns | {"holds": one.holds})[:INTERVALS]
    rows.insert(0, "run", range(1, len(rows) + 1))
    title = f"{one.interval} interval: {percent(one.coverage)} hold the truth"
    return Panel(
        Axis("interval of the median / true median"),
        Axis("one simulated measurement a line"),
        [drawn(_lines, rows, "low", "run", ends=("high",))],
        title,
        decor=[level(TRUE_MEDIAN, "x", BLACK, "-")],
    )


def _lines(axes: Any, rows: pd.DataFrame) -> None:
    for holds, look in ((True, {"color": GREY, "lw": 1}), (False, {"lw": 3})):
        own = rows[rows["holds"] == holds]
        axes.hlines(own["run"], own["low"], own["high"], **{"color": BLACK, **look})


# --- explorer


def _mean(ms: Sequence[float]) -> tuple[float, float, float]:
    # Mean and 1.96 standard errors, as if the times were normal and independent.
    error = 1.96 * np.std(ms, ddof=1) / np.sqrt(len(ms)) if len(ms) > 1 else 0.0
    middle = float(np.mean(ms))
    return middle - float(error), middle, middle + float(error)


def _median(ms: Sequence[float], interval: Any = stats.median_interval) -> Any:
    low, high = interval(ms)
    return low, stats.median(ms), high


# What it is called -> whether the naive loop's samples are taken, and (low, what is
# reported, high) of them.
TRAPS: dict[str, tuple[bool, Callable[[Sequence[float]], Any]]] = {
    "none: warm, median": (False, _median),
    "naive loop, median": (True, _median),
    "naive loop, mean": (True, _mean),
    "the fastest call": (False, lambda ms: (min(ms),) * 3),
    "interval ignores drift": (False, lambda ms: _median(ms, stats.plain_interval)),
}


def samples_taken(naive: Series, ours: Series, caption: str = "") -> Explorer:
    """What you would have reported of few samples, or in a trap, beside all of ours."""
    most = min(len(naive.ns), len(ours.ns))
    return explore(
        lambda samples, trap: reported(naive, ours, trap, samples),
        *({"samples": min(3, most), "trap": "naive loop, median"}, caption),
        samples=(1, most),
        trap=list(TRAPS),
    )


def compared(naive: Series, ours: Series, trap: str, samples: int) -> pd.DataFrame:
    """What is reported from the first samples, and the full answer, in ms.

    ValueError for a trap that is none.
    """
    check_choice("trap", trap, TRAPS)
    from_naive, report = TRAPS[trap]
    chosen = (naive if from_naive else ours).ns[:samples]
    answers = (("you report", chosen, report), ("all of ours", ours.ns, _median))
    lines = [
        (name, len(ns), *work([one / 1e6 for one in ns])) for name, ns, work in answers
    ]
    return pd.DataFrame(lines, columns=["report", "call", "low_ms", "ms", "high_ms"])


def reported(naive: Series, ours: Series, trap: str, samples: int) -> Figure:
    """The first samples, what was reported from them, and the full answer; ms.

    The other samples stay pale, and the axes as they are while controls move.
    """
    answers = compared(naive, ours, trap, samples)
    rows = _samples(naive if TRAPS[trap][0] else ours)[["series", "call", "ms"]]
    look: dict[str, Any] = {"color": FAINT, "size": 4}
    layers = [points(rows[samples:], "call", "ms", "not looked at", **look)]
    look = {**LOOKS[0], "size": 5}
    layers += [points(rows[:samples], "call", "ms", "the samples used", **look)]
    for n, name in ((1, "all of ours"), (0, "you report")):
        row, ends = answers[n : n + 1], ("low_ms", "high_ms")
        layers += [drawn(_answer, row, "call", "ms", name, "line", ends=ends)]
    every = np.array([*naive.ns, *ours.ns]) / 1e6
    ms = replace(MS, limits=(every.min() / 1.2, every.max() * 1.2))
    calls = Axis("call, in the order taken", limits=(0, len(rows) + 1))
    title = f"{trap}, n = {samples}: {_verdict(*answers.to_dict('records'))}"
    table = pd.concat([answers, rows], ignore_index=True)
    return Figure([Panel(calls, ms, layers)], title, table, (8.0, 4.6))


def _verdict(yours: Mapping[Any, Any], truth: Mapping[Any, Any]) -> str:
    low, ms, high = (yours[name] for name in ("low_ms", "ms", "high_ms"))
    span = f" ({digits(low)} to {digits(high)})" if low < high else ", no interval"
    holds = "holds" if low <= truth["ms"] <= high else "misses"
    full = f"all of ours (solid): {digits(truth['ms'])} ms"
    off = f"off by {times(ms / truth['ms'])}, and your interval {holds} it"
    return f"you report {digits(ms)} ms{span}, dashed\n{full}: {off}"


def _answer(axes: Any, rows: pd.DataFrame) -> None:
    ((name, _, low, ms, high),) = rows.to_numpy()
    color, dash = DASHES[name]
    axes.axhspan(low, high, color=color, alpha=0.15, lw=0)
    axes.axhline(ms, color=color, lw=2, ls=dash, zorder=5)


# --- tables


def three_times(
    kind: str, measured: Measurement, points: Sequence[Point] = ()
) -> pd.DataFrame:
    """Device time, round trip and queueing of a call: here, and as stored for `points`.

    Only what was measured stands in it: devices without stored samples have no row.
    """
    lines = [{"device": device_name(kind), "phase": "this call", **_three(measured)}]
    stores = [Store(reference.folder) for reference in references()]
    for record in (record for store in stores for record in store.records()):
        stored, name = record.measured, f"{record.device}, stored {record.at_utc[:10]}"
        if record.point in points and stored and stored.e2e_ns:
            line = {"device": name, "phase": record.point.workload.phase}
            lines.append(line | _three(stored))
    return pd.DataFrame(lines)


def _three(measured: Measurement) -> dict[str, Any]:
    kinds = (measured.device_ns, measured.e2e_ns, measured.enqueue_ns)
    said = [digits(stats.median(ns) / 1e6) if ns else "no queue" for ns in kinds]
    return dict(zip(("device_ms", "round_trip_ms", "queueing_ms"), said, strict=True))


def first_calls(calls: Mapping[str, Any]) -> pd.DataFrame:
    """The first call of each beside the median of the others, and their ratio.

    calls: a Series or a Measurement by name; a number is a guess, a text a reason.
    """
    return pd.DataFrame([{"call": name, **_first(one)} for name, one in calls.items()])


def _first(call: Any) -> dict[str, Any]:
    if call is None or isinstance(call, (int, float)):
        return {"ratio": call}
    if isinstance(call, str):
        return {"note": call}
    if isinstance(call, Measurement):
        first, later = 1e3 * call.first_call_s, 1e3 * call.seconds
    else:
        first, later = call.ns[0] / 1e6, stats.median(call.ns[1:] or call.ns) / 1e6
    return {"first_ms": first, "median_ms": later, "ratio": first / later}


def drift(series: Iterable[Series]) -> pd.DataFrame:
    """How alike neighbouring samples are, and what that does to the interval in ms."""
    every = list(series)
    columns: dict[str, Callable[[Any], Any]] = {
        "n": len,
        "median_ms": lambda ns: stats.median(ns) / 1e6,
        "correlation of neighbours": stats.rank_correlation,
        "widened": lambda ns: times(stats.inflation(ns)),
        "plain interval": lambda ns: _interval(stats.plain_interval(ns)),
        "corrected interval": lambda ns: _interval(stats.median_interval(ns)),
    }
    worked = {name: [work(one.ns) for one in every] for name, work in columns.items()}
    return pd.DataFrame({"series": [one.name for one in every], **worked})


def _interval(ns: tuple[float, float]) -> str:
    low, high = (digits(edge / 1e6) for edge in ns)
    return f"{low} to {high} ms"


def simulated(simulations: Iterable[Simulated]) -> pd.DataFrame:
    """Of each simulation: samples taken, and how often the interval held the truth."""
    every = list(simulations)
    noise = [f"AR({one.correlation:g})" * bool(one.correlation) for one in every]
    columns = {
        "noise": [name or "independent" for name in noise],
        "interval": [one.interval for one in every],
        "samples taken": [np.median(one.taken) for one in every],
        "runs": [len(one.low) for one in every],
        "coverage": [one.coverage for one in every],
    }
    return pd.DataFrame(columns)


def clocks() -> pd.DataFrame:
    """The host's clocks: the smallest step seen, and whether someone can set them."""
    from fastlab.clock import traps

    every = traps.sources()
    steps = [f"{one.step_ns:.0f} ns" for one in every]
    back = "yes: it may even go back"
    columns = {
        "clock": [one.name for one in every],
        "smallest step": [step.replace("inf ns", "none seen") for step in steps],
        "can be set": [back if one.adjustable else "no" for one in every],
    }
    return pd.DataFrame(columns)


def report(measured: Measurement) -> pd.DataFrame:
    """What our clock says of a measurement, a line and a reason each."""
    spread = _interval((measured.low_s * 1e9, measured.high_s * 1e9))
    ms = [f"{digits(1e3 * s)} ms" for s in (measured.seconds, measured.first_call_s)]
    flags, converged = ", ".join(measured.flags), "yes" if measured.converged else "no"
    lines = [
        ("seconds", ms[0], "median of all samples"),
        ("low_s, high_s", spread, "95 % interval of the median, corrected for drift"),
        ("n", str(measured.n), "samples, none of them deleted"),
        ("stopped", measured.stopped, STOPPED[measured.stopped]),
        ("converged", converged, "only then the target was reached"),
        ("flags", flags or "none", "what to hold against it: noisy, throttled, ..."),
        ("cache", measured.cache, "what the caches held before each sample"),
        ("warmup_calls", str(measured.warmup_calls), "calls made and not counted"),
        ("first_call_s", ms[1], "kept apart: it is a cost of its own"),
    ]
    return pd.DataFrame(lines, columns=["field", "value", "meaning"])
