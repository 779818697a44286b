"""The explorer of notebook 06: at which batch does a precision stop paying?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastlab.latency.devices import Device
from fastlab.spec.point import Point, Workload
from fastlab.spec.precision import PRECISIONS
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import override
from fastlab.view.alt.precisions import by_batch as told
from fastlab.view.explore.roofline import choices
from fastlab.view.figure import show
from fastlab.view.plots.speedups import by_batch
from fastlab.view.tables.precisions import crossing, gain_curves, runs
from fastlab.view.words import times

if TYPE_CHECKING:
    import pandas as pd
    from ipywidgets import VBox

HIDDEN = (256, 512, 1024, 2048, 4096, 8192)
LENGTHS = (32, 64, 512, 2048, 8192)
MOST = 256  # the largest batch drawn
LIMITS = (0.12, 8.0)  # the axis stays as controls move
USUAL = ("fp32", "bf16", "int8", "int8-dynamic", "int4-g128", "fp8-dynamic")


def paying(
    point: Point,
    *devices: Device | None,
    rows: pd.DataFrame | None = None,
    baseline: str = "bf16",
) -> VBox:
    """Hidden size, tokens cached, runtime and device against each precision's speed-up.

    `devices` are offered first, then some datasheets; `rows` (tables.gains(), measured
    on the first of them) are drawn where the controls stand on their model. Recomputes
    only.
    """
    import ipywidgets as widgets

    offered, shape = choices(devices), point.shape
    controls = {
        "hidden": _slider("hidden", HIDDEN, shape.hidden),
        "cached": _slider("cached", LENGTHS, point.workload.prompt_len),
        "runtime": widgets.Dropdown(
            options=["eager", "decoder"], value="eager", description="runtime"
        ),
        "device": widgets.Dropdown(options=list(offered), description="device"),
    }
    picture, first = widgets.HTML(), next(iter(offered))

    def redraw(_: Any = None) -> None:
        state = {name: control.value for name, control in controls.items()}
        own = state["device"] == first and same(point, **state)
        state["device"] = offered[state["device"]]
        kept = rows if own else None
        picture.value = shown(point, rows=kept, baseline=baseline, **state)

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    boxes = list(controls.values())
    return widgets.VBox([widgets.HBox(boxes[:2]), widgets.HBox(boxes[2:]), picture])


def _slider(name: str, options: Sequence[int], value: int) -> Any:
    import ipywidgets as widgets

    options = sorted({*options, value})
    return widgets.SelectionSlider(options=options, value=value, description=name)


def same(point: Point, hidden: int, cached: int, runtime: str, **_: Any) -> bool:
    """Whether the controls stand on the model and call of the point."""
    at = hidden, cached, runtime
    own = point.shape.hidden, point.workload.prompt_len, point.recipe.runtime
    return at == own


def moved(point: Point, hidden: int, cached: int, runtime: str) -> Point:
    """The point of another hidden size, cache and runtime; heads and ffn follow."""
    room = max(point.shape.max_positions, cached + 1)
    sizes: dict[str, Any] = {"max_positions": room}
    if hidden != point.shape.hidden:
        sizes["hidden"] = hidden
    work = Workload("decode", 1, cached)
    recipe = Recipe(attention=point.recipe.attention, runtime=runtime)
    return Point(override(point.shape, sizes), work, recipe, point.weights)


def shown(
    point: Point,
    *,
    hidden: int,
    cached: int,
    runtime: str,
    device: Device,
    rows: pd.DataFrame | None = None,
    baseline: str = "bf16",
) -> str:
    """The explorer's figure in one state as HTML, or why there is none."""
    if not runs(device, baseline):
        return f"<p><b>{device.name} has no {baseline}</b>: choose another device.</p>"
    wanted = [p for p in PRECISIONS if p in USUAL]
    at = moved(point, hidden, cached, runtime)
    curves = gain_curves(at, device, wanted, MOST, baseline)
    words = said(curves, baseline)
    size = f"{at.shape.family} {at.shape.layers}x{hidden}"
    title = f"Decode of {size} on {device.name}, {runtime}"
    if rows is not None:
        rows = rows[rows["precision"].isin(list(curves))]
        words += f"; marks measured on {rows['device'].iloc[0]}"
    text = f"Estimated, {cached:,} tokens cached: {words}"
    figure = by_batch(curves, title, baseline, rows, LIMITS)
    return show(figure, alt=told(curves, text, baseline, rows), caption=text).markup


def said(curves: dict[str, pd.DataFrame], baseline: str = "bf16") -> str:
    """Of each precision: its speed-up at batch 1, and from where on it is slower."""
    each = [
        f"{name} {times(curve['gain'].iloc[0])} at batch 1, {when(curve)}"
        for name, curve in curves.items()
        if name != baseline
    ]
    return "; ".join(each) or f"nothing but {baseline}"


def when(curve: pd.DataFrame) -> str:
    """At which batches of its curve a precision is faster than the baseline."""
    turn, faster = crossing(curve), curve["gain"] > 1
    if not faster.any():
        return "never faster"
    if turn <= curve["batch"].iloc[-1]:
        return f"slower from batch {turn:.0f} on"
    return "faster throughout" if faster.all() else "faster with more"
