"""Seconds of a server's steps, from estimates or measurements of few of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from fastlab.cost.memory import RESERVE, memory_footprint
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.latency.prior import as_served
from fastlab.record import Estimate
from fastlab.spec.checks import Spec, count, given
from fastlab.spec.point import Point, Workload
from fastlab.words import si

GRAIN = 32  # positions cached that a step is looked up for
PASTS, PROMPTS = 4, 10  # lengths that are estimated
Timed = Callable[[Sequence[Point]], Sequence[float]]


@dataclass(frozen=True)
class Server(Spec):
    """Continuous batching: who comes joins the next step, if there is room.

    Room is a slot, and cache memory for the whole answer: others wait, nobody is thrown
    out again. fused: a chunk is read in the same forward pass as answers are
    written in, not in one of its own.
    """

    slots: int = count("sequences at a time at most", 64)
    chunk: int = count("tokens of prompts read in a step at most", 512)
    fused: bool = given("prompts are read in the pass that writes answers", True)

    def __post_init__(self) -> None:
        self._check_fields()


@dataclass(frozen=True)
class Steps:
    """Seconds by tables. read[n]: a prompt of n tokens, 0 an empty pass; write[b][p]:
    one token for each of b sequences with p x GRAIN cached. bounds: of the two.
    """

    read: list[float]
    write: list[list[float]]
    fused: bool = True
    whole: bool = False  # prompts are read at once: each position sees those after it
    bounds: tuple[str, str] = ("", "")

    def chunk(self, new: int, past: int) -> float:
        """Seconds of reading `new` tokens after `past`: attention to those is added."""
        alone = self.read[new]
        more = self.read[past + new] - self.read[past] - alone if past else 0.0
        return alone + max(0.0, more)

    def writing(self, batch: int, rows: float) -> float:
        """Seconds of a token for each of a batch with so many rows cached together."""
        line, at = self.write[batch], rows / batch / GRAIN
        low = min(int(at), len(line) - 2)
        return line[low] + (line[low + 1] - line[low]) * (at - low)

    def seconds(
        self, chunks: Sequence[tuple[int, int]], batch: int, rows: float
    ) -> float:
        """Seconds of a step: chunks (new, past), and a token for each of a batch."""
        total = sum(self.chunk(*one) for one in chunks)
        total += self.writing(batch, rows) if batch else 0.0
        if self.fused:  # one pass: weights are read, kernels launched, once
            total -= (len(chunks) + bool(batch) - 1) * self.read[0]
        return total


def call(point: Point, phase: str, batch: int, tokens: int, served: bool) -> Point:
    """A server's step by itself: a prompt of so many tokens, or so many cached.

    served: as an engine with a cost a step runs it. What cannot read prompts has them
    read eagerly. ValueError for a step where it writes whole answers alone.
    """
    recipe = point.recipe
    if recipe.unroll > 1:
        recipe = replace(recipe, unroll=1)
    if phase == "decode" and phase not in recipe.engine.phases:
        recipe.refuse("runtime", "writes whole answers and has no steps to serve with")
    if phase not in recipe.engine.phases:
        recipe = replace(recipe, runtime="eager")
    logits = "all" if point.shape.kind == "encoder" or phase == "decode" else "last"
    work = Workload(phase, batch, tokens, logits=logits)
    made = replace(point, workload=work, recipe=recipe)
    return as_served(made) if served else made


def caller(point: Point, device: Device) -> Callable[..., Point]:
    """`call` of a point on a device: (phase, batch, tokens) -> Point."""
    return partial(call, point, served=bool(device.fits and device.fits.step_s))


def steps_of(
    point: Point,
    device: Device,
    longest: tuple[int, int],
    server: Server,
    timed: Timed | None = None,
) -> Steps:
    """The steps of a server of the point's model, recipe and weights on a device.

    longest: tokens of a prompt, and cached with its answer. timed: seconds of points,
    measured ones for instance, instead of the device's estimates.
    """
    of, (prompt, whole) = caller(point, device), longest
    reads, writes = _between(1, max(prompt, 2), PROMPTS), whole > prompt
    batches = sorted({*(2**i for i in range(server.slots.bit_length())), server.slots})
    pasts = _between(min(16, whole - 1), whole - 1, PASTS) if writes else []
    asked = [of("prefill", 1, n) for n in reads]
    asked += [of("decode", b, n) for b in batches for n in pasts] if writes else []
    found: list[Estimate] = [] if timed else estimate(asked, device)
    seconds = np.array(timed(asked) if timed else [e.seconds for e in found], float)
    bounds = (found[len(reads) - 1].bound, found[-1].bound) if found else ("", "")
    read = np.interp(np.arange(max(prompt, 2) + 1), reads, seconds[: len(reads)])
    table = seconds[len(reads) :].reshape(len(batches), -1) if writes else None
    write = _write(table, batches, pasts) if table is not None else []
    encoder = point.shape.kind == "encoder"
    return Steps(read.tolist(), write, server.fused, encoder, bounds)


def _between(low: int, high: int, n: int) -> list[int]:
    return sorted({*np.geomspace(low, high, n).round().astype(int).tolist()})


def _write(
    table: np.ndarray, batches: list[int], pasts: list[int]
) -> list[list[float]]:
    """[batch][grain], straight between what is known, and on beyond its ends."""
    grid = np.arange(pasts[-1] // GRAIN + 2) * GRAIN
    lines = [np.interp(grid, pasts, row) for row in table]
    every = np.arange(batches[-1] + 1)
    columns = [np.interp(every, batches, column) for column in np.array(lines).T]
    return [*map(list, zip(*np.array(columns).tolist(), strict=True))]


def cache_room(
    point: Point, device: Device, longest: tuple[int, int], server: Server
) -> float:
    """Tokens that the device has cache memory for beside the model; inf without cache.

    ValueError where there is none for the longest request.
    """
    of, (prompt, whole) = caller(point, device), longest
    reads = memory_footprint(of("prefill", 1, min(prompt, server.chunk)))
    free = device.memory_bytes * (1 - RESERVE) - reads.weights - reads.live
    each = 0.0
    if whole > prompt:
        each = memory_footprint(of("decode", 1, whole - 1)).kv_cache / whole
    if free < each * whole:
        need = si(reads.weights + reads.live + each * whole, "B")
        room = f"{si(device.memory_bytes, 'B')} of {device.name}"
        raise ValueError(f"{point.label}: a request needs {need}, and {room} hold less")
    return free / each if each else float("inf")
