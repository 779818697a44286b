"""The explorer of KV caches: what a decode step reads, and when the cache rules it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastlab.cost.memory import peak_bytes
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.record import Estimate
from fastlab.spec.point import Point, Workload
from fastlab.spec.precision import QUANTIZED
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import PRESETS, ModelShape
from fastlab.view.alt.kvcache import crossover as told
from fastlab.view.figure import show
from fastlab.view.numbers import si
from fastlab.view.plots.kvcache import crossover
from fastlab.view.tables.precisions import runs
from fastlab.view.words import digits

if TYPE_CHECKING:
    from ipywidgets import VBox

MODELS = ("llama-3.1-8b", "llama-3.2-1b", "qwen3-0.6b")
BATCHES = tuple(2**n for n in range(9))
CONTEXTS = tuple(2**n for n in range(8, 20))
WEIGHTS = ("bf16", "int8", "int4-g64")
CACHES = {"16 bit": "static", "int8": "static-int8"}
LONGEST = 2**20


def kv_growth(model: str, device: Device, batch: int = 1, context: int = 4096) -> VBox:
    """Model, batch, context, weights and cache against the bytes of a decode step.

    Recomputes estimates for the device only.
    """
    import ipywidgets as widgets

    controls = {
        "model": _menu("model", {name: name for name in (*MODELS, model)}, model),
        "batch": _slider("batch", BATCHES, batch),
        "context": _slider("context", CONTEXTS, context),
        "precision": _menu("weights", {n: n for n in WEIGHTS}, WEIGHTS[0]),
        "cache": _menu("KV cache", CACHES, "static"),
    }
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        state = {name: control.value for name, control in controls.items()}
        picture.value = shown(device, **state)

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    boxes = list(controls.values())
    return widgets.VBox([widgets.HBox(boxes[:3]), widgets.HBox(boxes[3:]), picture])


def _slider(name: str, options: Sequence[int], value: int) -> Any:
    import ipywidgets as widgets

    options = sorted({*options, value})
    return widgets.SelectionSlider(options=options, value=value, description=name)


def _menu(name: str, options: dict[str, str], value: str) -> Any:
    import ipywidgets as widgets

    pairs = list(options.items())
    return widgets.Dropdown(options=pairs, value=value, description=name)


def shown(
    device: Device, *, model: str, batch: int, context: int, precision: str, cache: str
) -> str:
    """The explorer's figure in one state, as HTML."""
    if not device.can("bf16"):
        return f"<p><b>{device.name} has no bf16</b>: choose another device.</p>"
    shape = roomy(PRESETS[model])
    names = (precision,) if runs(device, precision) else WEIGHTS[:1]
    point = step(shape, batch, context, names[0], cache)
    words = said(point, device)
    title = f"A decode step of {model}, batch {batch}: bytes read, estimated"
    figure = crossover(shape, names, batch, title, context, LONGEST)
    text = f"{words} {told(shape, names, batch)}"
    return show(figure, alt=text, caption=words).markup


def roomy(shape: ModelShape) -> ModelShape:
    """The shape with room for the longest context, whatever it was trained for."""
    return replace(shape, max_positions=LONGEST + 1)


def step(
    shape: ModelShape, batch: int, context: int, precision: str, cache: str
) -> Point:
    """A replayed decode step; `context` rows in the cache, its own included."""
    scope = "head" if precision in QUANTIZED else "layers"
    recipe = Recipe(precision, cache=cache, runtime="graph", scope=scope)
    return Point(shape, Workload("decode", batch, context - 1), recipe)


def said(point: Point, device: Device) -> str:
    """The state in a sentence: what the step reads, its time, whether it fits."""
    made, work = estimate([point], device)[0], point.workload
    read = made.weight_bytes + made.kv_read_bytes
    fits = peak_bytes(point) <= device.memory_bytes
    room = "" if fits else " It does not fit in the device's memory."
    return (
        f"{device.name}, estimated: {si(made.weight_bytes, 'B')} of weights and "
        f"{si(made.kv_read_bytes, 'B')} of KV cache a step "
        f"({made.kv_read_bytes / read:.0%}); {digits(rate(made, work.batch))} tokens/s "
        f"as one CUDA graph, {digits(read and device.bandwidth * work.batch / read)} "
        f"if only these bytes cost time.{room}"
    )


def rate(made: Estimate, batch: int) -> float:
    """Tokens per second of a decode step."""
    return batch / made.seconds
