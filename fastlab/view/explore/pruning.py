"""The explorer of notebook 07: shares to cut -> built shape, estimate, quality kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastlab.cost.memory import parameters
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.record import Estimate, Record
from fastlab.spec.point import Point
from fastlab.spec.pruning import RATIOS, Pruning
from fastlab.view.explore.roofline import choices
from fastlab.view.figure import show
from fastlab.view.numbers import si
from fastlab.view.plots.cutting import Size, cut_sizes
from fastlab.view.tables.pruning import dense_of
from fastlab.view.words import digits, times

if TYPE_CHECKING:
    from ipywidgets import VBox

SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
MULTIPLES = (1, 16, 64, 128)
LAYER_CHOICES = ("influence", "loss", "magnitude", "uniform", "first", "last")
IMPORTANCES = ("activation", "taylor", "magnitude", "random")


def cutting(
    models: Mapping[str, Point],
    *devices: Device | None,
    records: Iterable[Record] = (),
    start: float = 0.5,
) -> VBox:
    """Shares of layers, heads, FFN and width -> the shape built, FLOPs, an estimate.

    models: dense points by the name that the menu shows. Where `records` have the row,
    its time on the first device and its quality are told too: then the importance
    matters, which no size depends on. Recomputes only.
    """
    import ipywidgets as widgets

    offered, kept = choices(devices), {r.point: r for r in records}
    controls: dict[str, Any] = {name: _slider(name) for name in RATIOS}
    controls["layers"].value = start
    menus: dict[str, tuple[str, tuple[Any, ...]]] = {
        "layer_choice": ("which layers", LAYER_CHOICES)
    }
    menus |= {"importance": ("which units", IMPORTANCES)}
    menus |= {"multiple": ("multiple of", MULTIPLES)}
    menus |= {"model": ("model", tuple(models)), "device": ("device", tuple(offered))}
    for name, (text, options) in menus.items():
        controls[name] = widgets.Dropdown(options=options, description=text)
    picture, first = widgets.HTML(), next(iter(offered))

    def redraw(_: Any = None) -> None:
        state = {name: control.value for name, control in controls.items()}
        point, name = models[state.pop("model")], state.pop("device")
        rows = kept if name == first else {}
        picture.value = shown(point, offered[name], rows, **state)

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    boxes = list(controls.values())
    rows = [widgets.HBox(boxes[n : n + 3]) for n in range(0, len(boxes), 3)]
    return widgets.VBox([*rows, picture])


def _slider(name: str) -> Any:
    import ipywidgets as widgets

    options = [(f"{share:.1%}".replace(".0", ""), share) for share in SHARES]
    return widgets.SelectionSlider(options=options, value=0.0, description=name)


def shown(
    point: Point, device: Device, rows: Mapping[Point, Record], **cut: Any
) -> str:
    """The explorer's figure in one state as HTML, or why there is none."""
    try:
        made = replace(point, recipe=replace(point.recipe, pruning=Pruning(**cut)))
    except ValueError as error:
        return f"<p><b>No such model</b>: {error}</p>"
    if not device.can(point.recipe.precision):
        return f"<p><b>{device.name} has no {point.recipe.precision}.</b></p>"
    before, after = estimate([dense_of(point), made], device)
    record = rows.get(made)
    shape, costs = sizes(made), charges(before, after, made, record)
    words = f"{said(before, after, record)} {chosen(cut)} On {device.name}."
    built = ", ".join(f"{name} {size.words}" for name, size in shape.items())
    alt = f"Bars, what is left of the dense model: {built}. {words}"
    s = made.built_shape
    title = f"{asked_for(cut)} cut: {s.family} {s.layers} x {s.hidden} is built"
    figure = cut_sizes(shape, costs, title)
    return show(figure, alt=alt, caption=words).markup


def chosen(cut: Mapping[str, Any]) -> str:
    """What was asked for, how what goes is chosen, and how sizes are rounded."""
    return (
        f"Asked to cut {asked_for(cut)}. Layers by {cut['layer_choice']}, "
        f"units by {cut['importance']}, widths in multiples of {cut['multiple']}."
    )


def asked_for(cut: Mapping[str, Any]) -> str:
    """The shares to cut, in words: "layers 50.0%, ffn 25.0%"."""
    return ", ".join(f"{n} {cut[n]:.1%}" for n in RATIOS if cut[n]) or "nothing"


def sizes(made: Point) -> dict[str, Size]:
    """The four sizes of a shape, before and after its pruning."""
    old, new = made.shape, made.built_shape
    found = {}
    for name in RATIOS:
        was, now = getattr(old, name), getattr(new, name)
        found[name] = Size(was, now, f"{was:,} → {now:,}")
    groups = f"{old.kv_heads:,} → {new.kv_heads:,}"
    return found | {"heads": found["heads"]._replace(
        words=f"{found['heads'].words} in groups {groups}")}  # fmt: skip


def charges(
    before: Estimate, after: Estimate, made: Point, record: Record | None
) -> dict[str, Size]:
    """Parameters, FLOPs and estimated time of a model, before and after."""
    many = parameters(made.shape), parameters(made.built_shape)
    taken = record.measured if record else None
    ends = 1e3 * after.low_s, 1e3 * after.high_s
    ms = 1e3 * before.seconds, 1e3 * after.seconds
    words = f"{digits(ms[1])} ms, {digits(ends[0])} to {digits(ends[1])}"
    measured = 1e3 * taken.seconds if taken else None
    return {
        "parameters": Size(*many, si(many[1])),
        "FLOPs": Size(before.flops, after.flops, si(after.flops)),
        "peak memory": Size(
            before.peak_bytes, after.peak_bytes, si(after.peak_bytes, "B")
        ),
        "time": Size(*ms, words, ends, measured),
    }


def said(before: Estimate, after: Estimate, record: Record | None) -> str:
    """The state in a sentence or two: promise, estimate, and the stored row."""
    promised, made = before.flops / after.flops, before.seconds / after.seconds
    words = (
        f"FLOPs promise {times(promised)}, the estimate says {times(made)}: "
        f"{digits(1e3 * after.seconds)} ms."
    )
    if record is None:
        return f"{words} No row is stored of this cut."
    if record.measured:
        words += f" Measured: {digits(1e3 * record.measured.seconds)} ms (dot)."
    return words + _kept(record)


def _kept(record: Record) -> str:
    found = record.quality
    if found is None or found.bits_per_byte is None:
        return " Random weights: no quality to speak of."
    return (
        f" Quality: {found.bits_per_byte:.2f} bits per byte, dense "
        f"{found.dense_bits_per_byte:.2f}; KL {found.kl_nats:.2g} nats."
    )
