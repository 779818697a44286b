"""All candidates estimated: which cannot be it, and what is believed of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastlab.cost.memory import RESERVE
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.searches.beliefs import Beliefs, codes_of
from fastlab.searches.engine import Goal
from fastlab.searches.quality import Losses
from fastlab.searches.spaces import Candidate
from fastlab.serving.outcome import SATURATED
from fastlab.spec.checks import check_number
from fastlab.spec.scenarios import Targets
from fastlab.spec.unsupported import unsupported
from fastlab.words import digits, si, times

TIMES = ("e2e_s", "ttft_s", "tpot_s", "load")
NO_STEPS = "its runtime writes whole answers and has no steps to serve with"
BLANK: dict[str, Any] = {  # of what cannot run
    **dict.fromkeys((*TIMES, "low_s"), math.nan),
    **{"flops": 0, "launches": 0, "peak_bytes": math.nan, "last": None},
}


@dataclass
class Plan:
    """n candidates, and what is known of them before any is measured.

    found: of each its estimated times, low_s, flops, launches, peak_bytes. why: what is
    held against those that are left out. shares [n]: FLOPs over the most of any, which
    is C; unit_s: the seconds of that one.
    """

    candidates: list[Candidate]
    found: list[dict[str, Any]]
    goal: Goal
    losses: Losses
    wanted: Mapping[str, float]
    why: dict[int, str]
    shares: np.ndarray
    unit_s: float

    def scaled(self, i: int, seconds: float) -> dict[str, float]:
        """The times of a candidate, in the estimate's proportion."""
        own = self.found[i]
        return {n: own[n] * seconds / own["e2e_s"] for n in TIMES if n in own}


def plan(
    candidates: Sequence[Candidate],
    device: Device,
    targets: Targets | None = None,
    floor: float | None = None,
    lam: float = math.inf,
) -> Plan:
    """Estimate all on a device; leave out what cannot run, fit or meet the targets.

    lam: what T is worth beside C: C / C0 + lam x T / T0 is made least, FLOPs and
    seconds over those of the candidate with most FLOPs; inf: T alone. Raises ValueError
    where none is left, with what would be needed.
    """
    if lam != math.inf:
        check_number("lam", lam)
    every, wanted = [*candidates], targets.seconds if targets else {}
    if any(own.queue for own in every):
        wanted = {"load": SATURATED, **wanted}
    found, why = _estimated(every, device, wanted)
    flops = np.array([own["flops"] for own in found], float)
    most = int(flops.argmax())
    shares, unit_s = flops / flops[most], found[most]["e2e_s"]
    limits = np.array([own["e2e_s"] / (excess(own, wanted) or 1e-9) for own in found])
    goal = Goal(beliefs_of(every, found), limits, shares * unit_s / lam)
    losses = Losses([own.point for own in every], floor)
    return Plan(every, found, goal, losses, wanted, why, shares, unit_s)


def _estimated(
    every: Sequence[Candidate], device: Device, wanted: Mapping[str, float]
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """What is estimated, and why some are left out; ValueError where all are."""
    queued = any(own.queue for own in every)
    why = dict[int, str]()
    for i, own in enumerate(every):
        said = [unsupported(point, device) for point, _ in own.calls]
        said += [NO_STEPS] if queued and not own.queue else []
        if reason := next(filter(None, said), ""):
            why[i] = f"cannot run: {reason}"
    runs = [i for i in range(len(every)) if i not in why]
    if not runs:
        raise ValueError(f"no candidate runs on {device.name}: {why[0]}")
    points = [*dict.fromkeys(p for i in runs for p, _ in every[i].calls)]
    each = dict(zip(points, estimate(points, device), strict=True))
    found = [BLANK] * len(every)
    for i in runs:
        found[i] = every[i].total([each[p] for p, _ in every[i].calls])
    at_best = {i: found[i]["low_s"] / found[i]["e2e_s"] for i in runs}
    if queue := every[runs[0]].queue:
        shapes = [every[i].point.built_shape for i in runs]
        steps = [[each[p].seconds for p, _ in every[i].calls] for i in runs]
        times = queue.spread(shapes, steps, [found[i] for i in runs])
        for i, more in zip(runs, times, strict=True):
            found[i] |= more
    room = device.memory_bytes * (1 - RESERVE)
    for i in runs:
        told, need = found[i], found[i]["peak_bytes"]
        low = {n: told[n] * at_best[i] for n in TIMES if n in told}
        words = f"memory: needs {si(need, 'B')} of {si(room, 'B')}" * (need > room)
        if words := words or missed(low, wanted, " at best"):
            why[i] = words
    if len(why) == len(every):
        raise ValueError(_nobody(every, found, why, wanted))
    return found, why


def missed(own: Mapping[str, float], wanted: Mapping[str, float], how: str = "") -> str:
    """Which target these times miss, in words; "" where they meet all."""
    for name, most in wanted.items():
        if (took := own.get(name, 0.0)) <= most:
            continue
        if name == "load":
            return f"saturated: load {digits(took)}{how}, of {most:g} at most"
        said = f"{digits(took * 1e3)} ms{how} of {digits(most * 1e3)}"
        return f"target: {name.removesuffix('_s')} {said}"
    return ""


def excess(own: Mapping[str, float], wanted: Mapping[str, float]) -> float:
    """By what factor the times miss the targets, the worst of them."""
    return max((own.get(name, 0.0) / most for name, most in wanted.items()), default=0)


def _nobody(
    every: Sequence[Candidate],
    found: Sequence[Mapping[str, Any]],
    why: Mapping[int, str],
    wanted: Mapping[str, float],
) -> str:
    """Why no candidate is left: which comes closest, and what it would need."""
    runs = [i for i in why if found[i]["last"]]
    if fits := [i for i in runs if not why[i].startswith("memory")]:
        best = min(fits, key=lambda i: excess(found[i], wanted))
        return (
            "no candidate can meet the targets; closest is "
            f"{every[best].point.label}, {why[best]}, "
            f"{times(excess(found[best], wanted))} the target as estimated: it needs "
            "smaller models in the space, a faster device (--on), or more time"
        )
    best = min(runs, key=lambda i: found[i]["peak_bytes"])
    return f"no candidate fits; the closest is {every[best].point.label}, {why[best]}"


def beliefs_of(every: Sequence[Candidate], found: Sequence[dict[str, Any]]) -> Beliefs:
    """Kinds, ways, and classes: what the estimate cannot tell apart has one time."""
    points, launches = [c.point for c in every], [own["launches"] for own in found]
    trio = [(p.recipe, p.workload, p.built_shape) for p in points]
    kinds = [(r.precision, w.phase) for r, w, _ in trio]
    ways = [(r.runtime, r.cache, r.attention, r.storage, r.unroll) for r, *_ in trio]
    last = [own["last"] for own in found]
    same = [(s.family, r.scope) for r, _, s in trio]
    sizes = [(s.layers, s.hidden, w.batch, w.prompt_len) for _, w, s in trio]
    places = np.column_stack([np.array(sizes), launches])
    seconds = [own["e2e_s"] if own["last"] else 1.0 for own in found]
    classes = codes_of([*zip(kinds, ways, same, last, strict=True)])
    guess, places = np.log(seconds), np.log(np.maximum(places, 1))
    return Beliefs(guess, codes_of(kinds), codes_of(ways), classes, places)
