"""Alt texts and captions of the figures in trap_plots, made from their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastlab.clock.drift import Simulated, resampled
from fastlab.clock.stats import summary
from fastlab.clock.traps import Series
from fastlab.machine import device_name
from fastlab.view.plots.timing import INTERVALS_DRAWN
from fastlab.view.tables.timing import FEW
from fastlab.view.words import digits, times


def here(kind: str) -> str:
    """Where samples of this process were taken, in words for a caption."""
    return f"measured on {device_name(kind)}"


def strips(series: Sequence[Series], caption: str) -> str:
    """The alt text of trap_plots.strips()."""
    each = "; ".join(_one(s) for s in series)
    return (
        f"Strip of samples in the order taken, and their cumulative shares, "
        f"milliseconds on a log axis. {each}. {caption}."
    )


def _one(series: Series) -> str:
    stats = summary(np.array(series.ns) / 1e6)
    words = f"{series.name}: median {digits(stats.median)} ms of {stats.n} samples"
    if stats.p10 is not None and stats.p90 is not None:
        words += f", p10 to p90 {digits(stats.p10)} to {digits(stats.p90)} ms"
    if series.first:
        words += f", first call {digits(series.ns[0] / 1e6)} ms"
    return words


def few(series: Series, caption: str, sizes: Sequence[int] = FEW) -> str:
    """The alt text of trap_plots.few()."""
    spans = [np.quantile(resampled(series.ns, n), (0.05, 0.95)) for n in sizes]
    each = "; ".join(
        f"{n} samples: {times(low)} to {times(high)}"
        for n, (low, high) in zip(sizes, spans, strict=True)
    )
    return (
        f"Dots and bars: median of few samples over the median of all "
        f"{len(series.ns)}; 90 % of the tries lie for {each}. {caption}."
    )


def intervals(found: Sequence[Simulated], caption: str) -> str:
    """The alt text of trap_plots.intervals()."""
    each = "; ".join(
        f"{s.interval} interval: {s.coverage:.0%} of {len(s.low)} hold the true median"
        for s in found
    )
    return (
        f"Panels of {INTERVALS_DRAWN} horizontal intervals each, simulated with noise "
        f"whose neighbours resemble each other (AR({found[0].correlation:g})). {each}. "
        f"{caption}."
    )


def reported(
    name: str,
    taken: int,
    value: tuple[float, float, float],
    truth: tuple[float, float, float],
) -> str:
    """The alt text of trap_plots.reported(), and what the explorer says below it."""
    said, full = (f"{digits(v[1])} ms ({_span(v)})" for v in (value, truth))
    off = times(value[1] / truth[1])
    inside = value[0] <= truth[1] <= value[2]
    verdict = "holds" if inside else "misses"
    return (
        f"Trap: {name}. From the first {taken} samples you would report {said}; all "
        f"samples of our clock say {full}. Off by {off}; your interval {verdict} it."
    )


def _span(value: tuple[float, float, float]) -> str:
    low, _, high = value
    if low == high:
        return "no interval"
    return f"{digits(low)} to {digits(high)}"
