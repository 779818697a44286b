"""Small tables of the traps in timing code: milliseconds, and words beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.clock import traps
from fastlab.clock.drift import Simulated, resampled
from fastlab.clock.stats import (
    inflation,
    median,
    median_interval,
    plain_interval,
    rank_correlation,
)
from fastlab.clock.traps import Series
from fastlab.machine import device_name
from fastlab.record import Measurement
from fastlab.spec.point import Point
from fastlab.sweeps.reference import references
from fastlab.sweeps.store import Store
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

NO_QUEUE = "no queue"
FEW = (3, 10, 30, 100)  # sample counts that people use
FAR = 0.05  # a median that is off by more than this fraction
STOPPED = {
    "converged": "the interval was narrow enough",
    "n_max": "the most samples allowed were taken",
    "budget": "the time for sampling was spent",
}


def left(table: pd.DataFrame) -> Styler:
    """A table to be read as words: aligned to the left, without row numbers."""
    return table.style.hide().set_table_styles(
        [{"selector": "th, td", "props": "text-align: left !important"}]
    )


def three_times(
    kind: str, measured: Measurement, points: Sequence[Point] = ()
) -> pd.DataFrame:
    """Device time, round trip and queueing of a call: here, and as stored for `points`.

    Only what was measured stands in it: devices without stored samples have no row.
    """
    import pandas as pd

    rows = [{"device": device_name(kind), "phase": "this call", **_three(measured)}]
    return pd.DataFrame([*rows, *_stored(set(points))])


def _three(measured: Measurement) -> dict[str, Any]:
    kinds = (measured.device_ns, measured.e2e_ns, measured.enqueue_ns)
    named = zip(("device_ms", "round_trip_ms", "queueing_ms"), kinds, strict=True)
    return {name: digits(median(ns) / 1e6) if ns else NO_QUEUE for name, ns in named}


def _stored(points: set[Point]) -> Iterator[dict[str, Any]]:
    for reference in references():
        for record in Store(reference.folder).records():
            if record.point in points and record.measured and record.measured.e2e_ns:
                day = f"{record.device}, stored {record.at_utc[:10]}"
                phase = record.point.workload.phase
                yield {"device": day, "phase": phase, **_three(record.measured)}


def first_calls(calls: Mapping[str, Measurement | Series | str]) -> pd.DataFrame:
    """The first call of each beside the median of the others; a text is a reason."""
    import pandas as pd

    return pd.DataFrame([{"call": n, **_first(c)} for n, c in calls.items()])


def _first(call: Measurement | Series | str) -> dict[str, str]:
    if isinstance(call, str):
        return {"first_ms": "-", "median_ms": "-", "first / median": call}
    if isinstance(call, Series):
        first, later = call.ns[0], median(call.ns[1:] or call.ns)
    else:
        first, later = call.first_call_s * 1e9, call.seconds * 1e9
    found = {"first_ms": digits(first / 1e6), "median_ms": digits(later / 1e6)}
    return found | {"first / median": times(first / later)}


def few(series: Series, sizes: Sequence[int] = FEW) -> pd.DataFrame:
    """How far medians of few samples stray from the median of all, over many draws."""
    import pandas as pd

    return pd.DataFrame([_strays(n, resampled(series.ns, n)) for n in sizes])


def _strays(n: int, medians: np.ndarray) -> dict[str, Any]:
    low, high = np.quantile(medians, (0.05, 0.95))
    return {
        "samples": n,
        "90 % of medians from": times(low),
        "to": times(high),
        "off by more than 5 %": f"{np.mean(np.abs(medians - 1) > FAR):.0%}",
    }


def drift(series: Iterable[Series]) -> pd.DataFrame:
    """How alike neighbouring samples are, and what that does to the interval in ms."""
    import pandas as pd

    return pd.DataFrame([_drift(s) for s in series])


def _drift(series: Series) -> dict[str, Any]:
    return {
        "series": series.name,
        "n": len(series.ns),
        "median_ms": digits(median(series.ns) / 1e6),
        "correlation of neighbours": f"{rank_correlation(series.ns):.2f}",
        "widened": times(inflation(series.ns)),
        "plain interval": interval(plain_interval(series.ns)),
        "corrected interval": interval(median_interval(series.ns)),
    }


def interval(ns: tuple[float, float]) -> str:
    """An interval in ms, from one in ns."""
    low, high = (digits(edge / 1e6) for edge in ns)
    return f"{low} to {high} ms"


def simulated(found: Iterable[Simulated]) -> pd.DataFrame:
    """Of each simulation: samples taken, and how often the interval held the truth."""
    import pandas as pd

    return pd.DataFrame([_simulated(s) for s in found])


def _simulated(found: Simulated) -> dict[str, Any]:
    return {
        "noise": f"AR({found.correlation:g})" if found.correlation else "independent",
        "interval": found.interval,
        "samples taken": f"{np.median(found.taken):.0f}",
        "holds the true median": f"{found.coverage:.0%} of {len(found.low)}",
    }


def clocks() -> pd.DataFrame:
    """The host's clocks: the smallest step seen, and whether someone can set them."""
    import pandas as pd

    return pd.DataFrame([_clock(source) for source in traps.sources()])


def _clock(source: traps.Source) -> dict[str, str]:
    back = "yes: it may even go back" if source.adjustable else "no"
    step = f"{source.step_ns:.0f} ns" if np.isfinite(source.step_ns) else "none seen"
    return {"clock": source.name, "smallest step": step, "can be set": back}


def report(measured: Measurement) -> pd.DataFrame:
    """What our clock says of a measurement, a line and a reason each."""
    import pandas as pd

    held = ", ".join(measured.flags) or "none"
    spread = interval((measured.low_s * 1e9, measured.high_s * 1e9))
    first = f"{digits(measured.first_call_s * 1e3)} ms"
    lines = [
        ("seconds", f"{digits(measured.seconds * 1e3)} ms", "median of all samples"),
        ("low_s, high_s", spread, "95 % interval of the median, corrected for drift"),
        ("n", measured.n, "samples, none of them deleted"),
        ("stopped", measured.stopped, STOPPED[measured.stopped]),
        ("converged", measured.converged, "only then the target was reached"),
        ("flags", held, "what to hold against it: noisy, throttled, ..."),
        ("cache", measured.cache, "what the caches held before each sample"),
        ("warmup_calls", measured.warmup_calls, "calls made and not counted"),
        ("first_call_s", first, "kept apart: it is a cost of its own"),
    ]
    return pd.DataFrame(lines, columns=["field", "value", "meaning"])
