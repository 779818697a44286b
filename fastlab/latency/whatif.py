"""What a request would take and cost on devices that one does not own.

From the datasheet row and typical efficiencies: estimated, not calibrated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

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
SECONDS_PER_HOUR = 3600
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

    seconds = of the whole request, ttft_s to its first token, tpot_s for each further
    one; cost is that of 1,000 requests at the device's price per hour.
    """

    device: str
    refused: str = ""
    ttft_s: float | None = None
    tpot_s: float | None = None
    seconds: float | None = None
    largest_batch: int = 0
    cost: float | None = None


def typical(device: Device) -> Device:
    """The device at typical efficiencies of its datasheet's peak and bandwidth."""
    compute, memory = TYPICAL
    peaks = {name: compute * rate for name, rate in device.peak_flops.items()}
    speed = memory * device.bandwidth
    return replace(device, peak_flops=peaks, bandwidth=speed, fits=None)


def offers(request: Request, devices: Iterable[Device]) -> list[Offer]:
    """What each device offers, the cheapest first, those that cannot last."""

    def rank(one: Offer) -> tuple[bool, bool, float]:
        return bool(one.refused), one.cost is None, one.cost or one.seconds or 0.0

    return sorted((offer(request, device) for device in devices), key=rank)


def offer(request: Request, device: Device) -> Offer:
    """One device's offer; a request that does not fit or cannot run is refused."""
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
    both = estimate([whole, first], typical(device), "roofline")
    total, prefill = (e.seconds for e in both)
    tpot = (total - prefill) / later if later else None
    price = device.price_per_hour
    cost = price and 1000 * (total / request.batch) * price / SECONDS_PER_HOUR
    return Offer(device.name, "", prefill, tpot, total, batch, cost)


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
