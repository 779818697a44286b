"""Several visits to a point, spread over a sweep: one record of all of them.

A machine is now faster, now slower, for minutes. Samples of one visit cannot tell;
visits can.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from fastlab.record import Measurement, Record


def pooled(visits: Sequence[Record]) -> Record:
    """The record of a point that was visited once or more, by round.

    seconds: the median of the visits', from the shortest to the longest of which low_s
    to high_s reaches at least; samples in the order of the visits. All else is of the
    visit in the middle, what was lost of the first that knows it.
    """
    good = [visit for visit in visits if visit.measured and visit.status == "ok"]
    if len(good) < 2:
        return good[0] if good else visits[-1]
    by_time = sorted(good, key=_seconds)
    middle = by_time[(len(by_time) - 1) // 2]
    judged = next((visit.quality for visit in visits if visit.quality), None)
    times = [visit.measured for visit in good if visit.measured]
    return replace(middle, measured=_joined(middle, times), quality=judged, round=1)


def _seconds(visit: Record) -> float:
    assert visit.measured is not None
    return visit.measured.seconds


def _joined(middle: Record, visits: Sequence[Measurement]) -> Measurement:
    assert middle.measured is not None
    one, seconds = middle.measured, [visit.seconds for visit in visits]
    half = len(visits) / 2
    noisy = sum("noisy" in visit.flags for visit in visits) > half
    flags = [flag for flag in one.flags if flag != "noisy"]
    return replace(
        one,
        seconds=statistics.median(seconds),
        low_s=min(one.low_s, *seconds),
        high_s=max(one.high_s, *seconds),
        n=sum(visit.n for visit in visits),
        converged=sum(visit.converged for visit in visits) > half,
        flags=tuple([*flags, "noisy"] if noisy else flags),
        device_ns=tuple(chain.from_iterable(visit.device_ns for visit in visits)),
        e2e_ns=tuple(chain.from_iterable(visit.e2e_ns for visit in visits)),
        enqueue_ns=tuple(chain.from_iterable(visit.enqueue_ns for visit in visits)),
    )
