"""Traps in timing code: samples as they came, few of them, drift, and first calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.clock import stats
from fastlab.clock.drift import TRUE_MEDIAN, Simulated, resampled
from fastlab.figures.explorer import Explorer, explore
from fastlab.figures.grammar import Axis, Figure, Panel, drawn, level
from fastlab.figures.style import BLACK, FAINT, GREY, PALE, SMALL
from fastlab.machine import device_name
from fastlab.record import Measurement
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point
from fastlab.sweeps.reference import references
from fastlab.sweeps.store import Store
from fastlab.words import digits, factor, percent, times

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.clock.traps import Series

# The trap comes first, and is grey; what is measured with care is black.
LOOKS = ({"color": GREY, "marker": "^"}, {"color": BLACK, "marker": "o"})
USED = ({"color": FAINT}, LOOKS[0])  # not looked at, and used
ANSWERS = {
    "you report": {"color": GREY, "ls": "--"},
    "all of ours": {"color": BLACK, "ls": "-"},
}
SPAN = ("low", "high")  # columns: where 90 % of the tries lie
SIZES = (3, 10, 30, 100)  # sample counts that people use
FAR = 0.05  # a median that is off by more than this fraction
TRIES, INTERVALS = 100, 60  # drawn of each size, and in each panel
FACTORS = (1.1, 1.2, 1.5, 2, 3, 5, 10, 30, 100, 300, 1000)  # written on an axis
MS = Axis("milliseconds: log scale", "log")
NO_QUEUE = "no queue"
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
        draw, rows = partial(_ecdf, place=place), rows.sort_values("share")
        right.append(drawn(draw, rows, "share", "ms", one.name, "line"))
        first, median = one.ns[0] / 1e6, rows["median_ms"].iloc[0]
        called = f", first call {times(first / median)}" if one.first else ""
        told.append(f"{one.name}: median {digits(median)} ms{called}")
    names = Axis("every sample, in the order taken", names=[one.name for one in series])
    share = Axis("share of samples below", write=percent, ticks=(0, 0.5, 1))
    panels = [Panel(names, MS, left), Panel(share, MS, right)]
    look: dict[str, Any] = {"widths": (1.7, 1), "share": "y", "size": (10, 4.8)}
    rows = _joined(layer.rows for layer in left)
    return Figure(panels, "; ".join(told), rows, key="outside lower center", **look)


def _joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(list(tables), ignore_index=True)


def _samples(one: Series) -> pd.DataFrame:
    """Each sample with the share of all that is not above it; median, p10 and p90."""
    import pandas as pd

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


def _ecdf(axes: Any, rows: pd.DataFrame, place: int) -> None:
    look = {"color": LOOKS[place]["color"], "ls": ("--", "-")[place], "lw": 2}
    label = rows["series"].iloc[0]
    axes.step(rows["share"], rows["ms"], where="pre", label=label, **look)
    axes.set_xlim(0, 1)


def sample_size_effect(series: Series, sizes: Sequence[int] = SIZES) -> Figure:
    """Medians of few samples over that of all: dots, and where 90 % of them lie.

    The pale band is within 5 % of the full sample's median.
    """
    import pandas as pd

    medians = {n: resampled(series.ns, n) for n in sizes}
    summary = pd.DataFrame([_strays(n, some) for n, some in medians.items()])
    tries = pd.DataFrame({n: some[:TRIES] for n, some in medians.items()})
    tries = tries.melt(var_name="samples", value_name="ratio")
    off, far, ends = [percent(share) for share in summary["off"]], percent(FAR), SPAN
    label = f"median of few / median of all {len(series.ns)}"
    panel = Panel(
        _factors(label, np.concatenate([tries["ratio"], *(summary[e] for e in ends)])),
        Axis("", names={str(n): f"{n} samples" for n in sizes}),
        [
            drawn(_dots, tries, "ratio", "samples", "tries", write=times),
            drawn(_spans, summary, "median", "samples", "90 % of tries", ends=ends),
        ],
        notes=[(f"off by more\nthan {far}", off)],
        decor=[lambda axes: axes.axvspan(1 - FAR, 1 + FAR, color=PALE), level(1, "x")],
    )
    title = (
        f"medians of {sizes[0]}: {off[0]} are off by more than {far}; of {sizes[-1]}: "
    )
    title += f"{off[-1]}\ndots: what you would have reported; bar: 90 % of that"
    return Figure([panel], title, _joined([summary, tries]), (9.4, 4.2))


def _strays(n: int, medians: np.ndarray) -> dict[str, Any]:
    low, middle, high = np.quantile(medians, (0.05, 0.5, 0.95))
    off = np.mean(np.abs(medians - 1) > FAR)
    return {"samples": n, "low": low, "median": middle, "high": high, "off": off}


def _factors(label: str, values: np.ndarray) -> Axis:
    """A log axis of factors that holds all values, with a few round ones written."""
    low, high = 0.98 * min(values.min(), 0.9), 1.02 * max(values.max(), 1.1)
    up = [f for f in FACTORS if f < high][-3:]
    down = [1 / f for f in FACTORS if 1 / f > low][-2:]
    return Axis(label, "log", factor, [*down, 1, *up], (low, high))


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
    rows = _joined([simulated(simulations), *drawn_rows])
    return Figure(panels, title, rows, (10, 4.4), share="xy")


def _dance(one: Simulated) -> Panel:
    import pandas as pd

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
    import pandas as pd

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
    some = (("not looked at", rows[samples:]), ("the samples used", rows[:samples]))
    dots = [
        drawn(partial(_marks, **look), own, "call", "ms", name)
        for look, (name, own) in zip(USED, some, strict=True)
    ]
    ends: Any = ("low_ms", "high_ms")
    lines = [
        drawn(_answer, answers[n : n + 1], "call", "ms", name, "line", ends=ends)
        for n, name in ((1, "all of ours"), (0, "you report"))
    ]
    every = np.array([*naive.ns, *ours.ns]) / 1e6
    ms = replace(MS, limits=(every.min() / 1.2, every.max() * 1.2))
    calls = Axis("call, in the order taken", limits=(0, len(rows) + 1))
    title = f"{trap}, n = {samples}: {_verdict(*answers.to_dict('records'))}"
    panel = Panel(calls, ms, [*dots, *lines])
    return Figure([panel], title, _joined([answers, rows]), (8.0, 4.6))


def _verdict(yours: Mapping[Any, Any], truth: Mapping[Any, Any]) -> str:
    low, ms, high = (yours[name] for name in ("low_ms", "ms", "high_ms"))
    span = f" ({digits(low)} to {digits(high)})" if low < high else ", no interval"
    holds = "holds" if low <= truth["ms"] <= high else "misses"
    full = f"all of ours (solid): {digits(truth['ms'])} ms"
    off = f"off by {times(ms / truth['ms'])}, and your interval {holds} it"
    return f"you report {digits(ms)} ms{span}, dashed\n{full}: {off}"


def _marks(axes: Any, rows: pd.DataFrame, **look: Any) -> None:
    axes.scatter(rows["call"], rows["ms"], s=20, lw=0, **look)


def _answer(axes: Any, rows: pd.DataFrame) -> None:
    for _, low, ms, high in rows[["report", "low_ms", "ms", "high_ms"]].to_numpy():
        look = ANSWERS[rows["report"].iloc[0]]
        axes.axhspan(low, high, color=look["color"], alpha=0.15, lw=0)
        axes.axhline(ms, lw=2, **look)


# --- tables


def three_times(
    kind: str, measured: Measurement, points: Sequence[Point] = ()
) -> pd.DataFrame:
    """Device time, round trip and queueing of a call: here, and as stored for `points`.

    Only what was measured stands in it: devices without stored samples have no row.
    """
    import pandas as pd

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
    named = zip(("device_ms", "round_trip_ms", "queueing_ms"), kinds, strict=True)
    return {
        name: digits(stats.median(ns) / 1e6) if ns else NO_QUEUE for name, ns in named
    }


def first_calls(calls: Mapping[str, Any]) -> pd.DataFrame:
    """The first call of each beside the median of the others, and their ratio.

    calls: a Series or a Measurement by name; a number is a guess, a text a reason.
    """
    import pandas as pd

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
    import pandas as pd

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
    import pandas as pd

    lines = [
        {
            "noise": f"AR({one.correlation:g})" if one.correlation else "independent",
            "interval": one.interval,
            "samples taken": float(np.median(one.taken)),
            "of": len(one.low),
            "holds the true median": one.coverage,
        }
        for one in simulations
    ]
    return pd.DataFrame(lines)


def clocks() -> pd.DataFrame:
    """The host's clocks: the smallest step seen, and whether someone can set them."""
    import pandas as pd

    from fastlab.clock import traps

    back, columns = "yes: it may even go back", ["clock", "smallest step", "can be set"]
    lines = [
        (
            *(one.name, f"{one.step_ns:.0f} ns".replace("inf ns", "none seen")),
            back if one.adjustable else "no",
        )
        for one in traps.sources()
    ]
    return pd.DataFrame(lines, columns=columns)


def report(measured: Measurement) -> pd.DataFrame:
    """What our clock says of a measurement, a line and a reason each."""
    import pandas as pd

    spread = _interval((measured.low_s * 1e9, measured.high_s * 1e9))
    seconds, first = (
        f"{digits(1e3 * s)} ms" for s in (measured.seconds, measured.first_call_s)
    )
    flags, converged = ", ".join(measured.flags), "yes" if measured.converged else "no"
    lines = [
        ("seconds", seconds, "median of all samples"),
        ("low_s, high_s", spread, "95 % interval of the median, corrected for drift"),
        ("n", str(measured.n), "samples, none of them deleted"),
        ("stopped", measured.stopped, STOPPED[measured.stopped]),
        ("converged", converged, "only then the target was reached"),
        ("flags", flags or "none", "what to hold against it: noisy, throttled, ..."),
        ("cache", measured.cache, "what the caches held before each sample"),
        ("warmup_calls", str(measured.warmup_calls), "calls made and not counted"),
        ("first_call_s", first, "kept apart: it is a cost of its own"),
    ]
    return pd.DataFrame(lines, columns=["field", "value", "meaning"])
