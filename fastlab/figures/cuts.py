"""What a cut takes away and promises; an explorer that builds one on paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from fastlab.cost.memory import parameters
from fastlab.cost.operations import operations
from fastlab.cost.ops import PRODUCTS
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import bars, points
from fastlab.figures.panels import Axis, Panel
from fastlab.figures.roofline import device_menu
from fastlab.figures.style import GREY, PALE
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.rows import only
from fastlab.spec.cuts import possible_shares, read_points
from fastlab.spec.point import Point
from fastlab.spec.pruning import NOTHING_CUT, RATIOS, WIDTHS, Pruning
from fastlab.words import digits, percent, si, times

STORED = {"measured_ms": "ms measured", "bits_per_byte": "bits per byte"}
STORED |= {"dense_bits_per_byte": "of the dense model", "kl_nats": "nats KL"}


def described(point: Point) -> dict[str, Any]:
    """What is cut from a point, how it is chosen, and what that promises.

    kind: a kind of unit; "zeros" or "pattern" (N:M) in dense weights; "csr" or "2:4",
    as they are stored; "dense" for nothing, "" for all else. left: parameters, as a
    share of the dense model's. promised: its FLOPs over those left, zeros not counted.
    """
    recipe, cut, dense = point.recipe, point.recipe.pruning, dense_of(point)
    zeros, kinds = recipe.sparsity, [name for name in RATIOS if getattr(cut, name)]
    if zeros and zeros.storage == "dense":
        kinds.append("pattern" if zeros.pattern else "zeros")
    elif zeros:
        kinds.append(zeros.storage)
    kind = "" if recipe.sharing or len(kinds) > 1 else kinds[0] if kinds else "dense"
    by = {"layers": cut.layer_choice} | dict.fromkeys(WIDTHS, cut.importance)
    return {
        "kind": kind,
        "share": zeros.ratio if zeros else getattr(cut, kind, 0.0),
        "what": built_words(point),
        "choice": by.get(kind, ""),
        "method": zeros.method if zeros else "",
        "left": parameters(point.built_shape) / parameters(point.shape),
        "promised": paper_flops(dense) / paper_flops(point),
    }


def dense_of(point: Point) -> Point:
    """The same call of the model that nothing was cut from."""
    bare: dict[str, Any] = {"pruning": NOTHING_CUT, "sparsity": None, "sharing": None}
    return replace(point, recipe=replace(point.recipe, distill_steps=0, **bare))


def paper_flops(point: Point) -> float:
    """FLOPs of a call where zeros of the layers' weights cost nothing."""
    zeros, recipe = point.recipe.sparsity, replace(point.recipe, sparsity=None)
    left = 1 - zeros.ratio if zeros else 1.0
    return sum(
        op.times * op.flops * (left if op.kind in PRODUCTS and op.name != "head" else 1)
        for op in operations(replace(point, recipe=recipe))
    )


def built_words(point: Point) -> str:
    """The shape that is built, in words: "4 x 768, 12/4 heads, ffn 2048"."""
    s, sparsity = point.built_shape, point.recipe.sparsity
    words = f"{s.layers} x {s.hidden}, {s.heads}/{s.kv_heads} heads, ffn {s.ffn}"
    if sparsity is None:
        return words
    zeros = sparsity.pattern or f"{percent(sparsity.ratio)} zeros"
    return f"{words}, {zeros} {sparsity.storage}"


def controls(models: Mapping[str, Point], profile: Device | None) -> dict[str, Any]:
    """An explorer's controls: dense models by name, devices, and what `on_paper` cuts.

    Only shares that a config can say are offered.
    """

    def offered(name: str) -> Any:
        def options(state: dict[str, Any]) -> dict[str, float]:
            cut = {one: state[one] for one in ("multiple", *RATIOS) if one in state}
            shares = possible_shares(state["model"], name, cut)
            return {f"{100 * share:g} %": share for share in shares}

        return options

    every = read_points("cuts")["all"]
    shares = {name: offered(name) for name in ("layers", "ffn", "hidden", "heads")}
    ways = {"layer_choice": every["layers"], "importance": every["units"]}
    first = {"model": models, "device": device_menu(profile)}
    return {**first, "multiple": [1, 16, 64, 128], **shares, **ways}


def on_paper(dense: Point, device: Device, stored: pd.DataFrame, **cut: Any) -> Figure:
    """Shares of layers, heads, FFN and width: the shape built, FLOPs, an estimate.

    Where the `stored` rows have the cut on this device, its time and quality are told
    too: then it matters how units are chosen, which no size depends on. ValueError if
    no config can say the shape.
    """
    built = replace(dense, recipe=replace(dense.recipe, pruning=Pruning(**cut)))
    same = only(stored[stored["device"] == device.name], [built])
    row: Mapping[Any, Any] = next(iter(same.to_dict("records")), {})
    old, new = estimate([dense, built], device)
    costs = {"parameters": "parameters", "FLOPs": "flops"}
    costs |= {"peak memory": "peak_bytes", "time": "seconds"}
    lines = [(what, getattr(old, n), getattr(new, n)) for what, n in costs.items()]
    rows = pd.DataFrame(lines, columns=["what", "before", "after"])
    rows = rows.assign(dense=1.0, left=rows["after"] / rows["before"])
    ends = {"low": new.low_s, "high": new.high_s}  # of the time, in its line
    ends["measured"] = row.get("measured_ms", float("nan")) / 1e3
    rows = rows.join(pd.DataFrame(ends, [3]) / old.seconds)
    layers = [
        bars(rows, "dense", "what", color=PALE),
        bars(rows, "left", "what", "left", color=GREY, ends=("low", "high")),
        points(rows.dropna(subset="measured"), "measured", "what", "measured"),
    ]
    units = zip(rows["before"], rows["after"], ["", "", "B", "s"], strict=True)
    notes = [("", [f"{si(a, unit)} → {si(b, unit)}" for a, b, unit in units])]
    x = Axis("of the dense model's", write=percent, limits=(0, 1.35), ticks=(0, 0.5, 1))
    panel = Panel(x, Axis("", names=list(rows["what"])), layers, notes=notes)
    each = [f"{100 * cut[name]:g} % of {name}" for name in RATIOS if cut[name]]
    ms, low, high = (digits(1e3 * s) for s in (new.seconds, new.low_s, new.high_s))
    title = f"{', '.join(each) or 'nothing'} cut, layers by {cut['layer_choice']}, "
    title += f"units by {cut['importance']}, widths in multiples of {cut['multiple']}\n"
    title += f"{built_words(dense)} → {built_words(built)}\nFLOPs promise "
    title += f"{times(old.flops / new.flops)}, the estimate "
    title += f"{times(old.seconds / new.seconds)}: {ms} ms, {low} to {high}"
    known = {f"{digits(row[n])} {s}": 1 for n, s in STORED.items() if row.get(n, 0) > 0}
    note = f"on {device.name}; {', '.join(known) or 'no row is stored of this cut'}"
    return Figure([panel], title, rows, (9.0, 3.9), note=note)
