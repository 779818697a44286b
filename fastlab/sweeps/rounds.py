"""Rounds: a point that was visited more than once has one row, made of its visits."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from fastlab.record import SAMPLES, Measurement, Record


def pooled(visits: Sequence[Record]) -> Record:
    """The record of a point that was visited once or more, by round.

    A machine is now faster, now slower, for minutes: visits spread over a sweep can
    tell, samples of one cannot.
    seconds: the median of the visits', from the shortest to the longest of which low_s
    to high_s reaches at least; samples in the order of the visits. All else is of the
    visit in the middle, what was lost of the first that knows it.
    """
    good = [visit for visit in visits if visit.measured and visit.status == "ok"]
    if len(good) < 2:
        return good[0] if good else visits[-1]
    times = [visit.measured for visit in good if visit.measured]
    place = sorted(range(len(good)), key=lambda n: times[n].seconds)
    middle = place[(len(place) - 1) // 2]
    judged = next((visit.quality for visit in visits if visit.quality), None)
    measured = _joined(times[middle], times)
    return replace(good[middle], measured=measured, quality=judged, round=1)


def hosts_of(envs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The host of each environment, one where its name or its boot is the same."""
    found: dict[str, list[Any]] = {}
    named: dict[str, str] = {}
    for key, env in envs.items():
        both = env.get("host"), env.get("boot")
        found[key] = names = [one for one in both if one and isinstance(one, str)]
        same = {named.get(one, one) for one in names}
        known = [one for one in (*named, *names) if named.get(one, one) in same]
        named |= dict.fromkeys(known, *names[:1])
    return {key: named[names[0]] for key, names in found.items() if names}


def of_one_host(rows: list[Record], hosts: Mapping[str, object]) -> list[Record]:
    """The visits of the host that has most of them: no row is of two machines.

    hosts: by the digest of the environment.
    """
    own = [hosts.get(row.env) for row in rows]
    most = max(own, key=own.count)
    return [row for row, host in zip(rows, own, strict=True) if host == most]


def _joined(one: Measurement, visits: Sequence[Measurement]) -> Measurement:
    seconds, half = [visit.seconds for visit in visits], len(visits) / 2
    noisy = sum("noisy" in visit.flags for visit in visits) > half
    flags = [flag for flag in one.flags if flag != "noisy"]
    samples: dict[str, Any] = {
        name: tuple(chain.from_iterable(getattr(visit, name) for visit in visits))
        for name in SAMPLES
    }
    return replace(
        one,
        seconds=statistics.median(seconds),
        low_s=min(one.low_s, *seconds),
        high_s=max(one.high_s, *seconds),
        n=sum(visit.n for visit in visits),
        converged=sum(visit.converged for visit in visits) > half,
        flags=tuple([*flags, "noisy"] if noisy else flags),
        **samples,
    )
