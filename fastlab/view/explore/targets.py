"""The explorer of notebook 10: which steps does a target need, on which device?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastlab.latency.devices import Device
from fastlab.spec.point import Point
from fastlab.view.alt.case import targets as told
from fastlab.view.explore.roofline import choices
from fastlab.view.figure import show
from fastlab.view.plots.targeting import targets
from fastlab.view.tables.targets import first_under, steps_on
from fastlab.view.words import digits

if TYPE_CHECKING:
    from ipywidgets import VBox

TARGETS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)  # ms
LENGTHS = (64, 256, 512, 1024)
BATCHES = (1, 4, 16, 64)


def target(
    paths: Mapping[str, Mapping[str, Point]],
    *devices: Device | None,
    target_ms: float = 100,
) -> VBox:
    """A target, the call, its tokens and batch, against each step on each device.

    paths: phase -> step -> point. `devices` come first, then datasheets, which are
    estimated, not calibrated. Recomputes only.
    """
    import ipywidgets as widgets

    offered = list(choices(devices).values())
    lengths = [paths[phase]["dense"].workload.prompt_len for phase in paths]
    controls = {
        "target_ms": _slider("target, ms", TARGETS, target_ms),
        "phase": widgets.Dropdown(options=list(paths), description="call"),
        "tokens": _slider("tokens", LENGTHS, max(lengths)),
        "batch": _slider("batch", BATCHES, 1),
    }
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        state = {name: control.value for name, control in controls.items()}
        steps = paths[state.pop("phase")]
        picture.value = shown(steps, offered, **state)

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    boxes = list(controls.values())
    return widgets.VBox([widgets.HBox(boxes[:2]), widgets.HBox(boxes[2:]), picture])


def _slider(name: str, options: Sequence[float], value: float) -> Any:
    import ipywidgets as widgets

    options = sorted({*options, value})
    return widgets.SelectionSlider(options=options, value=value, description=name)


def moved(steps: Mapping[str, Point], tokens: int, batch: int) -> dict[str, Point]:
    """The same steps at another length and batch; a decode step fills that position."""
    return {name: _moved(point, tokens, batch) for name, point in steps.items()}


def _moved(point: Point, tokens: int, batch: int) -> Point:
    cached = tokens if point.workload.phase == "prefill" else tokens - 1
    work = replace(point.workload, prompt_len=max(cached, 1), batch=batch)
    return replace(point, workload=work)


def shown(
    steps: Mapping[str, Point],
    devices: Sequence[Device],
    *,
    target_ms: float,
    tokens: int,
    batch: int,
) -> str:
    """The explorer's figure in one state as HTML."""
    made = moved(steps, tokens, batch)
    table = steps_on(made, devices)
    phase = next(iter(made.values())).workload.phase
    call = f"prefill of {tokens:,} tokens"
    call = call if phase == "prefill" else f"decode step at position {tokens:,}"
    size = next(iter(made.values())).shape
    model = f"{size.family} {size.layers} x {size.hidden}"
    title = f"{model}, {call}, batch {batch}: what comes under {digits(target_ms)} ms?"
    figure = targets(table, target_ms, title)
    words = said(table, target_ms)
    return show(figure, alt=told(table, target_ms, title), caption=words).markup


def said(table: Any, target_ms: float) -> str:
    """How many devices need which step, and what the numbers are worth."""
    firsts = list(first_under(table, target_ms).values())
    each = [
        f"{firsts.count(step)} at “{step}”"
        for step in dict.fromkeys(table["step"])
        if step in firsts
    ]
    none = firsts.count("")
    each += [f"{none} not at all"] if none else []
    return (
        f"Of {len(firsts)} devices: {', '.join(each)}. Nothing runs: datasheets are "
        "taken at 0.7 of their peak and 0.9 of their bandwidth, estimated, not "
        "calibrated; quality is not asked here."
    )
