"""What may be run: the recipes of a space, and the calls that answer a request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastlab.record import Estimate
from fastlab.serving.queue import Queue
from fastlab.serving.steps import call
from fastlab.spec.point import Point
from fastlab.spec.scenarios import Scenario
from fastlab.sweeps.files import SweepFile, read_sweep


@dataclass(frozen=True)
class Candidate:
    """A request's point, and the calls of which its time is made.

    calls: (point, how often it counts): a prefill and the decode steps after it, at the
    mean length of the cache; or the request itself, which is how runtimes that only
    generate are timed, after a prefill that gives its TTFT alone; or those of a queue.
    """

    point: Point
    calls: tuple[tuple[Point, int], ...]
    queue: Queue | None = None

    def seconds(self, each: Sequence[float]) -> dict[str, float]:
        """Its times in s, and in a queue with a rate the load, of the calls' own."""
        if self.queue:
            return self.queue.times(self.point.built_shape, each)
        return self.alone(each)

    def alone(self, each: Sequence[float]) -> dict[str, float]:
        """e2e_s, ttft_s, and where there are more tokens tpot_s, if nobody waits."""
        work = self.point.workload
        whole = sum(s * n for s, (_, n) in zip(each, self.calls, strict=True))
        told = {"e2e_s": whole, "ttft_s": each[0]}
        if work.phase == "generate" and work.new_tokens > 1:
            told["tpot_s"] = (whole - each[0]) / (work.new_tokens - 1)
        return told

    def total(self, each: Sequence[Estimate]) -> dict[str, Any]:
        """Its estimated times alone, low_s, FLOPs, launches, the most bytes at once."""
        names, counts = ("low_s", "flops", "launches"), [n for _, n in self.calls]
        pairs = [*zip(each, counts, strict=True)]
        added = {name: sum(getattr(e, name) * n for e, n in pairs) for name in names}
        most = {"peak_bytes": max(e.peak_bytes for e in each), "last": each[-1]}
        return self.alone([e.seconds for e in each]) | added | most


def candidate(point: Point, queue: Queue | None = None) -> Candidate:
    """The calls of a request, or of a queue; of any other point the point itself."""
    work, recipe = point.workload, point.recipe
    if queue and recipe.engine.phases != ("generate",):
        return Candidate(point, queue.calls(point), queue)
    if work.phase != "generate":
        return Candidate(point, ((point, 1),))
    first = call(point, "prefill", work.batch, work.prompt_len, served=False)
    if work.new_tokens == 1:
        return Candidate(point, ((first, 1),))
    if "decode" not in recipe.engine.phases or recipe.unroll > 1:
        return Candidate(point, ((first, 0), (point, 1)))
    cached = work.prompt_len + math.ceil(work.new_tokens / 2) - 1
    step = call(point, "decode", work.batch, cached, served=False)
    return Candidate(point, ((first, 1), (step, work.new_tokens - 1)))


def read_space(
    path: str | Path, scenario: Scenario | None = None, model: str = ""
) -> tuple[SweepFile, list[Candidate]]:
    """A space, which is written as a sweep file, and its candidates.

    scenario: what is asked of each; without one, the calls that the file names. model:
    for all its grids. Raises ValueError as `read_sweep`, and for fields in the file
    that scenario or model give.
    """
    beside: dict[str, Any] = {"model": model} if model else {}
    if scenario:  # calls that any model has room for, until its own are known
        writes = scenario.answer.at(scenario.targets.percentile) > 1
        call = {"phase": "generate", "new_tokens": 2} if writes else {}
        beside |= {"phase": "prefill", "batch": 1, "prompt_len": 1} | call
    space = read_sweep(path, beside=beside)
    points = space.points
    if scenario:
        works = {shape: scenario.workload(shape) for shape in {p.shape for p in points}}
        points = [replace(point, workload=works[point.shape]) for point in points]
    queue = Queue.of(scenario) if scenario else None
    return space, [candidate(point, queue) for point in dict.fromkeys(points)]
