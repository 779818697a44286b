"""The explorer of roofs: batch, prompt, precision and device move the marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastlab.cost.memory import peak_bytes
from fastlab.latency.devices import Device
from fastlab.latency.devices import device as find_device
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe
from fastlab.view.alt.roofline import roofline as told
from fastlab.view.figure import show
from fastlab.view.plots.roofline import roofline
from fastlab.view.tables.roofline import bounds, on_the_roof
from fastlab.view.words import digits

if TYPE_CHECKING:
    from ipywidgets import VBox

BATCHES = tuple(2**n for n in range(11))
LENGTHS = (32, 128, 512, 1024, 2048, 8192)
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
DEVICES = ("h200", "h100", "a100", "l4", "t4", "rtx4090", "m4-max")
LEFT, RIGHT = 0.1, 30_000.0  # FLOP per byte: the axis stays as controls move


def roofs(point: Point, *devices: Device | None) -> VBox:
    """Batch, prompt, precision and device against the marks of prefill and decode.

    `devices` are offered first, then some of the datasheets. Recomputes only.
    """
    import ipywidgets as widgets

    offered = choices(devices)
    work = point.workload
    controls = {
        "batch": _slider("batch", BATCHES, work.batch),
        "prompt_len": _slider("prompt", LENGTHS, work.prompt_len),
        "precision": widgets.Dropdown(
            options=PRECISIONS, value=point.recipe.precision, description="precision"
        ),
        "device": widgets.Dropdown(options=list(offered), description="device"),
    }
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        state = {name: control.value for name, control in controls.items()}
        state["device"] = offered[state["device"]]
        picture.value = shown(point, **state)

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    boxes = list(controls.values())
    return widgets.VBox([widgets.HBox(boxes[:2]), widgets.HBox(boxes[2:]), picture])


def _slider(name: str, options: Sequence[int], value: int) -> Any:
    import ipywidgets as widgets

    options = sorted({*options, value})
    return widgets.SelectionSlider(options=options, value=value, description=name)


def choices(devices: Sequence[Device | None]) -> dict[str, Device]:
    """Devices by the name that the menu shows: the given ones, then datasheets."""
    given = [one for one in devices if one is not None]
    known = [find_device(name) for name in DEVICES]
    return {name_of(one): one for one in (*given, *known)}


def name_of(device: Device) -> str:
    """The device's name, and that it was calibrated where it was."""
    return device.name + " (calibrated)" * device.calibrated


def calls(point: Point, batch: int, prompt_len: int, precision: str) -> list[Point]:
    """Prefill and decode of the point's model in another state; bert only reads."""
    shape = replace(point.shape, max_positions=max(prompt_len + 1, 131072))
    phases = ("prefill",) if shape.family == "bert" else ("prefill", "decode")
    return [
        Point(shape, Workload(phase, batch, prompt_len), Recipe(precision))
        for phase in phases
    ]


def shown(
    point: Point, *, batch: int, prompt_len: int, precision: str, device: Device
) -> str:
    """The explorer's figure in one state as HTML, or why there is none."""
    if precision not in device.peak_flops:
        return f"<p><b>{device.name} has no {precision}</b>: choose another format.</p>"
    points = calls(point, batch, prompt_len, precision)
    table = on_the_roof(points, device)
    figure = roofline(table, device, limits(device))
    words = said(points, device)
    text = f"{words} {told(table, device)}"
    return show(figure, alt=text, caption=words).markup


def limits(device: Device) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of both axes, the same in all states of a device."""
    top = max(device.peak_flops.values())
    return (LEFT, RIGHT), (device.bandwidth * LEFT / 30, top * 4)


def said(points: Sequence[Point], device: Device) -> str:
    """The state in a sentence: what bounds each call, and the share of the peak."""
    rows = bounds(points, device)
    room = [peak_bytes(point) <= device.memory_bytes for point in points]
    each = "; ".join(
        f"{r['phase']} {digits(r['estimated ms'])} ms, bound by {r['bound']}, MFU "
        f"{r['MFU %']:.2g} %, MBU {r['MBU %']:.2g} %"
        + ", but does not fit in memory"
        * (not fits)
        for (_, r), fits in zip(rows.iterrows(), room, strict=True)
    )
    work = points[0].workload
    return f"Estimated, batch {work.batch}, {work.prompt_len:,} tokens: {each}."
