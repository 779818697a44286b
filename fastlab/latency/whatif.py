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
from fastlab.latency.estimates import estimate
from fastlab.latency.roofline import EFFICIENCIES
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
    label: str = LABEL


def typical(device: Device) -> Device:
    """The device at typical efficiencies of its datasheet's peak and bandwidth."""
    compute, memory = TYPICAL
    peaks = {name: compute * rate for name, rate in device.peak_flops.items()}
    return replace(device, peak_flops=peaks, bandwidth=memory * device.bandwidth)


def offers(request: Request, devices: Iterable[Device]) -> list[Offer]:
    """What each device offers, the cheapest first, those that cannot last."""
    found = [offer(request, device) for device in devices]
    return sorted(found, key=_rank)


def _rank(offer: Offer) -> tuple[bool, bool, float]:
    unpriced = offer.cost is None
    return bool(offer.refused), unpriced, offer.cost or offer.seconds or 0.0


def offer(request: Request, device: Device) -> Offer:
    """One device's offer; a request that does not fit or cannot run is refused."""
    whole, first = request.point("generate"), request.point("prefill")
    precision = request.recipe.precision
    if reason := unsupported(whole, device):
        why = reason if device.can(precision) else f"no {precision}"
        return Offer(device.name, why)
    batch = largest_batch(whole, device.memory_bytes)
    if batch < request.batch:
        return Offer(device.name, _too_large(whole, device), largest_batch=batch)
    total, prefill = (
        e.seconds for e in estimate([whole, first], typical(device), "roofline")
    )
    later = max(request.new_tokens - 1, 1)
    return Offer(
        device.name,
        ttft_s=prefill,
        tpot_s=(total - prefill) / later if request.new_tokens > 1 else None,
        seconds=total,
        largest_batch=batch,
        cost=_cost(total / request.batch, device.price_per_hour),
    )


def _too_large(point: Point, device: Device) -> str:
    need, room = peak_bytes(point), device.memory_bytes
    return f"needs {si(need, 'B')} of {si(room, 'B')}"


def _cost(seconds: float, price_per_hour: float | None) -> float | None:
    """USD for 1,000 requests of so many seconds each."""
    if price_per_hour is None:
        return None
    return 1000 * seconds * price_per_hour / SECONDS_PER_HOUR


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
