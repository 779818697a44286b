"""The explorer of counts: turn one size, and read by which factor each count grows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastlab.cost.memory import kv_cache_bytes, parameters
from fastlab.cost.operations import bytes_by_kind, flops_by_part
from fastlab.spec.point import Point, Workload
from fastlab.spec.shape import GROUPED
from fastlab.spec.vary import lengthened, widened
from fastlab.view.alt.count import factors as factors_alt
from fastlab.view.figure import Shown, show
from fastlab.view.plots import count as plots

if TYPE_CHECKING:
    from ipywidgets import VBox

STEPS = (0.125, 0.25, 0.5, 1, 2, 4, 8)  # of the start's hidden size and prompt length
BATCHES = (1, 2, 4, 8, 16, 32, 64)
GROUPS = (1, 2, 4, 8, 16, 32)  # query heads that share one KV head
CAPTION = "counted, not measured: nothing runs, and no device is assumed"


def counts(point: Point) -> VBox:
    """Layers, width, prompt, batch, GQA group and phase against the point's counts."""
    import ipywidgets as widgets

    controls = _controls(point)
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        state = {name: control.value for name, control in controls.items()}
        picture.value = shown(point, **state).markup

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    boxes = list(controls.values())
    rows = [widgets.HBox(boxes[:3]), widgets.HBox(boxes[3:])]
    return widgets.VBox([*rows, picture])


def _controls(point: Point) -> dict[str, Any]:
    import ipywidgets as widgets

    s, work = point.shape, point.workload
    most = max(64, 2 * s.layers)
    layers = widgets.IntSlider(value=s.layers, min=1, max=most, description="layers")
    phases = ("prefill", "decode") if s.family != "bert" else ("prefill",)
    group = s.heads // s.kv_heads
    groups = GROUPS if s.family in GROUPED else (1,)
    return {
        "layers": layers,
        "hidden": _slider("hidden", _widths(point), s.hidden),
        "prompt_len": _slider("prompt", _lengths(point), work.prompt_len),
        "batch": _slider("batch", BATCHES, work.batch),
        "group": _slider("Q per KV", [g for g in groups if g <= s.heads], group),
        "phase": widgets.Dropdown(options=phases, description="phase"),
    }


def _slider(name: str, options: Any, value: int) -> Any:
    import ipywidgets as widgets

    options = sorted({*options, value})
    return widgets.SelectionSlider(options=options, value=value, description=name)


def _widths(point: Point) -> list[int]:
    """Widths around the start's that a whole number of heads fits in."""
    s = point.shape
    return [int(s.hidden * f) for f in STEPS if float(s.heads * f).is_integer()]


def _lengths(point: Point) -> list[int]:
    return [n for f in STEPS if (n := int(point.workload.prompt_len * f)) > 0]


def changed(
    point: Point,
    *,
    layers: int,
    hidden: int,
    prompt_len: int,
    batch: int,
    group: int,
    phase: str,
) -> Point:
    """The point in another state; `group` query heads share a KV head, if they can."""
    wide = widened(point.shape, hidden)
    kv_heads = wide.heads // math.gcd(wide.heads, group)
    shape = replace(wide, layers=layers, kv_heads=kv_heads)
    work = Workload(phase=phase, batch=batch)
    most = replace(shape, max_positions=max(shape.max_positions, work.positions))
    return lengthened(replace(point, shape=most, workload=work), prompt_len)


def numbers(point: Point) -> dict[str, float]:
    """All counts of a point, as "what|unit": number."""
    flops, moved = flops_by_part(point), bytes_by_kind(point)
    keys_values = moved.pop("KV read") + moved.pop("KV written")
    return {
        "parameters|": parameters(point.shape),
        "all FLOPs|FLOP": sum(flops.values()),
        **{f"FLOPs of {part}|FLOP": count for part, count in flops.items()},
        **{f"{kind} moved|B": size for kind, size in moved.items()},
        "keys, values moved|B": keys_values,
        "KV cache held|B": kv_cache_bytes(point),
    }


def shown(point: Point, **state: Any) -> Shown:
    """The explorer's figure in one state, with its alt text."""
    start, other = numbers(point), changed(point, **state)
    now = numbers(other)
    kept = {name: value for name, value in now.items() if start[name] and value}
    figure = plots.factors(kept, start, title(other))
    return show(figure, alt=factors_alt(kept, start, title(other)), caption=CAPTION)


def title(point: Point) -> str:
    """The state in words: "llama, 16 layers x 2048, 8 of 32 heads for KV, ..."."""
    s, work = point.shape, point.workload
    heads = f"{s.heads} heads, {s.kv_heads} for KV"
    call = f"{work.phase}, batch {work.batch}, {work.prompt_len:,} tokens"
    return f"{s.layers} layers x {s.hidden:,}, {heads}; {call}"
