"""What a request would take and cost on devices that one does not own.

From the device's prior; without one, from its datasheet and typical efficiencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

from fastlab.cost.memory import largest_batch, peak_bytes
from fastlab.cost.operations import operations
from fastlab.cost.ops import PRODUCTS
from fastlab.latency.devices import Device
from fastlab.latency.estimates import EFFICIENCIES, estimate
from fastlab.latency.prior import as_served
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import ModelShape
from fastlab.spec.unsupported import unsupported
from fastlab.words import si

LABEL = "estimated, not calibrated"
TYPICAL = EFFICIENCIES["efficiencies 0.7 / 0.9"]  # shares of peak and of bandwidth
SHEET = "datasheet × {} / {}".format(*TYPICAL)
SECONDS_PER_HOUR = 3600
BELIEF = 2  # rows of one's own that weigh as much as the prior
BF16 = Recipe("bf16")


@dataclass(frozen=True)
class Request:
    """A prompt to read and an answer to write, for `batch` sequences at a time."""

    shape: ModelShape
    prompt_len: int
    new_tokens: int
    batch: int = 1
    recipe: Recipe = BF16

    def point(self, phase: str) -> Point:
        """The request's generation, or its prefill with the last logits only."""
        count = {"new_tokens": self.new_tokens} if phase == "generate" else {}
        work = Workload(phase, self.batch, self.prompt_len, logits="last", **count)
        return Point(self.shape, work, self.recipe)


@dataclass(frozen=True)
class Offer:
    """A request on a device: seconds, what fits, USD; `refused` says why it cannot.

    seconds = of the whole request, with a prior from low_s to high_s; ttft_s to its
    first token, tpot_s for each further one; cost is that of 1,000 requests at the
    device's price per hour. bound: what takes most of the time; basis: SHEET or prior.
    """

    device: str
    refused: str = ""
    ttft_s: float | None = None
    tpot_s: float | None = None
    seconds: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    bound: str = ""
    largest_batch: int = 0
    cost: float | None = None
    basis: str = ""


class Move(NamedTuple):
    """By what factor so many own rows move the estimates of a phase."""

    factor: float = 1.0
    n: int = 0


UNMOVED = {"prefill": Move(), "decode": Move()}


def moves(timed: Sequence[tuple[Point, float, Device]]) -> dict[str, Move]:
    """What own rows (point, seconds, device) say of prefill, and of decode.

    The median of log(measured / estimated), shrunk by n / (n + BELIEF): few rows move
    little. A generation counts as decode. Raises ValueError for a device without prior.
    """
    logs: dict[str, list[float]] = {name: [] for name in UNMOVED}
    for point, seconds, device in timed:
        if device.fitted != "prior":
            raise ValueError(f"device={device.name!r} has no prior that rows move")
        (found,) = estimate([point], device)
        phase = "prefill" if point.workload.phase == "prefill" else "decode"
        logs[phase].append(math.log(seconds / found.seconds))
    sizes = {name: len(own) for name, own in logs.items()}
    middle = {name: median(own or [0.0]) for name, own in logs.items()}
    return {
        p: Move(math.exp(middle[p] * n / (n + BELIEF)), n) for p, n in sizes.items()
    }


def typical(device: Device) -> Device:
    """The device at typical efficiencies of its datasheet's peak and bandwidth."""
    compute, memory = TYPICAL
    peaks = {name: compute * rate for name, rate in device.peak_flops.items()}
    return replace(device.sheet, peak_flops=peaks, bandwidth=memory * device.bandwidth)


def offers(
    request: Request, devices: Iterable[Device], moved: Mapping[str, Move] = UNMOVED
) -> list[Offer]:
    """What each device offers, the cheapest first, those that cannot last."""

    def rank(one: Offer) -> tuple[bool, bool, float]:
        return bool(one.refused), one.cost is None, one.cost or one.seconds or 0.0

    return sorted((offer(request, one, moved) for one in devices), key=rank)


def offer(
    request: Request, device: Device, moved: Mapping[str, Move] = UNMOVED
) -> Offer:
    """One device's offer; a request that does not fit or cannot run is refused.

    moved: of `moves`; it is heeded where the device has a prior.
    """
    whole, first = request.point("generate"), request.point("prefill")
    if device.fits and device.fits.serves:
        whole, first = as_served(whole), as_served(first)
    precision, later = request.recipe.precision, request.new_tokens - 1
    if reason := unsupported(whole, device):
        return Offer(
            device.name, reason if device.can(precision) else f"no {precision}"
        )
    batch = largest_batch(whole, device.memory_bytes)
    if batch < request.batch:
        need, room = si(peak_bytes(whole), "B"), si(device.memory_bytes, "B")
        return Offer(device.name, f"needs {need} of {room}", largest_batch=batch)
    known = device.fitted == "prior"
    every, one = estimate([whole, first], device if known else typical(device))
    at_first, later_on = (move.factor if known else 1.0 for move in moved.values())
    prefill = at_first * one.seconds
    total = prefill + later_on * (every.seconds - one.seconds)
    tpot = (total - prefill) / later if later else None
    scale = total / every.seconds
    low, high = (end * scale if known else None for end in (every.low_s, every.high_s))
    price, basis = device.price_per_hour, "prior" if known else SHEET
    cost = price and 1000 * (total / request.batch) * price / SECONDS_PER_HOUR
    times = prefill, tpot, total, low, high
    return Offer(device.name, "", *times, every.bound, batch, cost, basis)


def knee(point: Point, device: Device) -> float:
    """Batch at which a decode step's linear layers reach the ridge; inf if they never.

    FLOPs and activations grow with the batch B, weights do not:
    B flops / (weights + B activations) = ridge, solved for B.
    """
    one = replace(point, workload=replace(point.workload, batch=1))
    linears = [op for op in operations(one) if op.kind in PRODUCTS]
    flops, weights, activations = (
        sum(op.times * getattr(op, name) for op in linears)
        for name in ("flops", "weight_bytes", "activation_bytes")
    )
    ridge = device.ridge(point.recipe.precision)
    left = flops - ridge * activations
    return ridge * weights / left if left > 0 else float("inf")
