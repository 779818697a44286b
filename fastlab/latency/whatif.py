"""What a request would take and cost on devices that one does not own.

From the device's prior; without one, from its datasheet and typical efficiencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, NamedTuple

from fastlab.cost.memory import largest_batch, peak_bytes
from fastlab.cost.operations import operations
from fastlab.cost.ops import PRODUCTS
from fastlab.latency.devices import Device
from fastlab.latency.estimates import EFFICIENCIES, estimate
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
    """By what factor own rows move the estimates of a phase, and how many they are."""

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
        if not has_prior(device):
            raise ValueError(
                f"device={device.name!r} has no prior that rows could move"
            )
        (found,) = estimate([point], device)
        phase = "prefill" if point.workload.phase == "prefill" else "decode"
        logs[phase].append(math.log(seconds / found.seconds))
    return {name: _move(own) for name, own in logs.items()}


def _move(logs: list[float]) -> Move:
    n = len(logs)
    return Move(math.exp(median(logs) * n / (n + BELIEF)), n) if n else Move()


def has_prior(device: Device) -> bool:
    """Whether the device is estimated with what is known of other GPUs."""
    return device.sheet != device


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
    precision, later = request.recipe.precision, request.new_tokens - 1
    if reason := unsupported(whole, device):
        return Offer(
            device.name, reason if device.can(precision) else f"no {precision}"
        )
    batch = largest_batch(whole, device.memory_bytes)
    if batch < request.batch:
        need, room = si(peak_bytes(whole), "B"), si(device.memory_bytes, "B")
        return Offer(device.name, f"needs {need} of {room}", largest_batch=batch)
    known = has_prior(device)
    every, one = estimate([whole, first], device if known else typical(device))
    prefill, rest = one.seconds, every.seconds - one.seconds
    if known:
        prefill, rest = prefill * moved["prefill"].factor, rest * moved["decode"].factor
    total = prefill + rest
    band = ("low_s", "high_s") if known else ()
    price = device.price_per_hour
    times: dict[str, Any] = {"ttft_s": prefill, "seconds": total, "bound": every.bound}
    times |= {"tpot_s": rest / later if later else None}
    times |= {n: getattr(every, n) * total / every.seconds for n in band}
    times["cost"] = price and 1000 * (total / request.batch) * price / SECONDS_PER_HOUR
    basis = "prior" if known else SHEET
    return Offer(device.name, largest_batch=batch, basis=basis, **times)


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
