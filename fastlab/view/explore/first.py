"""The first explorer: one slider, the layers, and what they cost on some devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.record import Estimate
from fastlab.spec.point import Point
from fastlab.view.figure import Shown, show
from fastlab.view.numbers import si
from fastlab.view.plots import first as plots
from fastlab.view.words import digits

if TYPE_CHECKING:
    from ipywidgets import VBox

MOST = 64  # layers that the slider reaches
CAPTION = (
    "nothing runs: all times are estimated. A datasheet is what a device could do at "
    "best: estimated, not calibrated"
)


def depth(point: Point, devices: Sequence[Device]) -> VBox:
    """Parameters, FLOPs and estimated ms on each device, for 1 to 64 layers."""
    import ipywidgets as widgets

    slider = widgets.IntSlider(
        value=point.shape.layers, min=1, max=MOST, description="layers"
    )
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        picture.value = shown(point, devices, slider.value).markup

    slider.observe(redraw, names="value")
    redraw()
    return widgets.VBox([slider, picture])


def shown(point: Point, devices: Sequence[Device], count: int) -> Shown:
    """The explorer's figure at one number of layers, with its alt text."""
    found, words = estimates(point, devices, count), title(point, devices, count)
    figure = plots.on_devices(devices, found, limits(point, devices), words)
    return show(figure, alt=alt(devices, found, words), caption=CAPTION)


def estimates(point: Point, devices: Sequence[Device], count: int) -> list[Estimate]:
    """The estimate on each device, at `count` layers."""
    deep = replace(point, shape=replace(point.shape, layers=count))
    return [estimate([deep], device)[0] for device in devices]


def limits(point: Point, devices: Sequence[Device]) -> tuple[float, float]:
    """Milliseconds from one layer to the most, so that the axis stays as it is."""
    low, high = (estimates(point, devices, n) for n in (1, MOST))
    return min(e.low_s for e in low) * 700, max(e.high_s for e in high) * 1400


def title(point: Point, devices: Sequence[Device], count: int) -> str:
    """What the model is and costs: "8 layers x 512, prefill of 128 tokens: ..."."""
    made = estimates(point, devices[:1], count)[0]
    work = point.workload
    call = f"{work.phase}, {work.prompt_len} tokens"
    costs = f"{si(made.parameters)} parameters, {si(made.flops, 'FLOP')}"
    return f"{count} layers x {point.shape.hidden}, {call}: {costs}"


def alt(devices: Sequence[Device], found: Sequence[Estimate], words: str) -> str:
    """The alt text of the explorer's figure."""
    each = "; ".join(
        f"{device.name} ({device.profile.partition(':')[0]}) {digits(e.seconds * 1e3)} "
        f"ms, bound by {e.bound}"
        for device, e in zip(devices, found, strict=True)
    )
    chart = f"Estimated milliseconds on {len(devices)} devices, log axis"
    return f"{chart}. {words}. {each}."
