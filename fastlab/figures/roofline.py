"""What bounds an operation: roofs over products, over benchmarks, and over batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fastlab.cost import ops
from fastlab.cost.memory import largest_batch
from fastlab.cost.operations import operations
from fastlab.figures.explorer import Explorer, around, explore
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import drawn, gridlines, line, points
from fastlab.figures.panels import ENDS, Axis, Layer, Panel
from fastlab.figures.style import GREY, SMALL, color_of, look_of, readable
from fastlab.latency import roofline as model
from fastlab.latency.costs import CAUSAL, KV_WRITE, WEIGHTS, costs_of
from fastlab.latency.devices import Device
from fastlab.latency.devices import device as find_device
from fastlab.latency.estimates import estimate
from fastlab.latency.profile import formula
from fastlab.latency.samples import Sample, work_of
from fastlab.rows import compared
from fastlab.spec.formats import FORMATS
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe
from fastlab.words import digits, percent, si

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Limits = tuple[float, float]
X, Y = "FLOP per byte", "FLOP/s"
GROUPS = {
    **{"q": "QKV", "k": "QKV", "v": "QKV", "qkv": "QKV", "attention": "attention"},
    **{"out": "out", "mlp": "MLP", "head": "head"},
}
NO_FLOPS = "no FLOPs"  # norms, elementwise, look-ups, copies
SHAPES = {"linear": "s", "attention, prefill": "o", "attention, decode": "^"}
ABOVE = 1.05  # times the roof: what a roof of main memory does not explain
STEEP = 1.5  # how much more than across, in logs, arrows climb that arrive from below
LAYER_ROWS = tuple(2**n for n in range(14))  # of the layer whose path is drawn
STOPS = (1, 64, 1024)  # rows that are marked on that path
MEASURED = ["precision", "batch", "estimated_ms", "measured_ms", "ratio"]
MEASURED += ["tokens_per_s", "n"]
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)))  # of lines of one colour
SHORTEST = 4  # batches in a row that are bound by the same: fewer are not named
CLOSE = 1.3  # lines within this factor run together, and need one name
BATCHES, LENGTHS = tuple(2**n for n in range(11)), (32, 128, 512, 1024, 2048, 8192)
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
DEVICES = ("h200", "h100", "a100", "l4", "t4", "rtx4090", "m4-max")
LEFT, RIGHT = 0.1, 30_000.0  # FLOP per byte: the axis stays as controls move


# --- products under a roof


def roofline(
    rows: pd.DataFrame, device: Device, limits: tuple[Limits, Limits] | None = None
) -> Figure:
    """FLOP/s against FLOPs per byte, log-log: a hollow mark a product, under its roof.

    rows: of `on_the_roof`. Bars are the band from all costs hidden to none; arrows lead
    from the first precision to the last. Roofs are dashed, from a datasheet, or solid
    if calibrated.
    """
    products = rows[rows[X] > 0]
    precisions = list(dict.fromkeys(products["precision"]))
    x, y = limits or _limits(products, device)
    layers = [_roof(device, p, x, y, n) for n, p in enumerate(precisions)]
    for (phase, precision), own in products.groupby(["phase", "precision"], sort=False):
        named = precision == _named(products, phase, precisions)
        look = look_of(precision, phase) | {"words": "operation" if named else ""}
        look |= {"hollow": True, "ends": ("low", "high")}
        layers.append(points(own, X, Y, f"{phase} {precision}", **look))
    decor = [gridlines(), _notes(rows, device, precisions)]
    panel = Panel(*_axes(x, y), layers, key="upper left", decor=decor)
    title = _title(products, device, precisions[-1])
    return Figure([panel], title, _with_roofs(rows, device), (9.6, 6.2))


def _limits(products: pd.DataFrame, device: Device) -> tuple[Limits, Limits]:
    """Ends of both axes that hold all marks, the roofs and their ridges."""
    precisions = set(products["precision"])
    top = max(device.product_rate(p) for p in precisions)
    right = max(products[X].max(), *(device.ridge(p) for p in precisions), 1) * 6
    return (products[X].min() / 4, right), (products["low"].min() / 3, top * 4)


def _axes(x: Limits, y: Limits) -> tuple[Axis, Axis]:
    across = Axis("arithmetic intensity (FLOP per byte)", "log", limits=x)
    return across, Axis("FLOP/s", "log", si, limits=y)


def _title(products: pd.DataFrame, device: Device, precision: str) -> str:
    what = "calibrated" if device.calibrated else "datasheet, not calibrated"
    own = products[products["precision"] == precision]
    most = own.groupby("phase", sort=False)[Y].max() / device.product_rate(precision)
    each = ", ".join(f"{percent(share)} in {phase}" for phase, share in most.items())
    head = f"{device.name} ({what}): hollow marks are estimates"
    return f"{head}\nof the {precision} peak the best product reaches {each}"


def _with_roofs(rows: pd.DataFrame, device: Device, of: str = "") -> pd.DataFrame:
    """The rows with the peak FLOP/s and the ridge of each one's precision."""
    able = [p if device.can(p) else "" for p in rows["precision"]]
    peaks = np.array([device.product_rate(p) if p else np.nan for p in able])
    roof = {"peak": peaks, "ridge": peaks / device.bandwidth, "B/s": device.bandwidth}
    return rows.assign(**{of + name: values for name, values in roof.items()})


def _roof(
    device: Device, precision: str, x: Limits, y: Limits, nth: int = 0, of: str = ""
) -> Layer:
    """The roof, the band below it down to the sum, its height and its ridge.

    of: "datasheet " where it stands behind a measured one: then only a line in the key.
    """
    peak, ridge = device.product_rate(precision), device.ridge(precision)
    color = color_of(precision)
    note: dict[str, Any] = {"color": readable(color), "fontsize": SMALL}
    note |= {"textcoords": "offset points"}
    note |= {"bbox": {"fc": "white", "ec": "none", "pad": 0.5}}
    text = f"{of}{precision}: {si(peak, 'FLOP/s')}"

    def draw(axes: Axes, _: Any) -> None:
        at = np.geomspace(*x, 200)
        slope = device.bandwidth * at
        best, worst = np.minimum(slope, peak), 1 / (1 / slope + 1 / peak)
        look: dict[str, Any] = {"lw": 1.8, "ls": "-" if device.calibrated else "--"}
        axes.plot(at, best, color=color, label=text if of else None, **look)
        if of:
            return
        axes.fill_between(at, worst, best, color=color, alpha=0.09, lw=0)
        axes.plot([ridge, ridge], [y[0], peak], color=color, lw=0.8, ls=":")
        axes.annotate(text, (x[1], peak), (-4, 5), ha="right", **note)
        at_foot = (ridge, y[0])
        axes.annotate(f"ridge {digits(ridge)}", at_foot, (4, 5 + 13 * nth), **note)

    names = f"{of}ridge", f"{of}peak"
    corner = pd.DataFrame([(ridge, peak)], columns=names)
    told: dict[str, Any] = {"color": color, "write": lambda v: si(v, "FLOP/s")}
    name = f"{of}{precision} roof"
    return drawn(draw, corner, *names, name, "line", **told)


def _named(products: pd.DataFrame, phase: str, precisions: Sequence[str]) -> str:
    """The precision whose marks have the names: arrows leave those to their right.

    The last one, unless the arrows climb: then they arrive from where names would be.
    """
    own = products[products["phase"] == phase]
    middle = own.groupby("precision")[[X, Y]].median()
    across, climb = np.log(middle.loc[precisions[-1]] / middle.loc[precisions[0]])
    return precisions[0] if climb > STEEP * across else precisions[-1]


def _notes(
    rows: pd.DataFrame, device: Device, precisions: list[str]
) -> Callable[[Axes], None]:
    """The bandwidth above the slope, the arrows, and what has no place on the axes."""
    last, look = precisions[-1], {"fontsize": SMALL, "color": GREY, "ha": "right"}
    off = rows[(rows["operation"] == NO_FLOPS) & (rows["precision"] == last)]
    each = [f"{percent(r['share'])} of {r['phase']}" for _, r in off.iterrows()]
    text = "\n".join(["◁ off the axis, no FLOPs:", "norms, RoPE, cache ...", *each])
    arrow: dict[str, Any] = {"arrowstyle": "->", "color": GREY, "lw": 0.9}
    arrow |= {"shrinkA": 6, "shrinkB": 6, "alpha": 0.55}
    slope = min(device.ridge(precision) for precision in precisions) / 3

    def draw(axes: Axes) -> None:
        at = (slope, slope * device.bandwidth)
        words: dict[str, Any] = {"textcoords": "offset points", **look}
        axes.annotate(si(device.bandwidth, "B/s"), at, (-5, 5), **words)
        place: dict[str, Any] = {"transform": axes.transAxes, "va": "bottom", **look}
        axes.text(0.985, 0.09, f"{text} ({last})", **place)
        for _, own in rows[rows[X] > 0].groupby(["phase", "operation"], sort=False):
            ends = own[[X, Y]].to_numpy(float)[[0, -1]]
            if len(own) > 1:
                axes.annotate("", ends[1], ends[0], arrowprops=arrow, zorder=3)

    return draw


def on_the_roof(calls: Iterable[Point], device: Device) -> pd.DataFrame:
    """Each product of each call: FLOPs per byte, and FLOP/s by the roofline's band.

    The band (low, high) is that of `latency.roofline`: from all costs hidden behind the
    longest to none hidden, launches included; share = of the call's time. Precisions
    that the device cannot do are left out; ValueError if nothing remains.
    """
    calls = list(calls)
    able = [p for p in calls if device.can(p.recipe.precision)]
    if calls and not able:
        device.product_rate(calls[0].recipe.precision)
    return pd.DataFrame([row for point in able for row in _products(point, device)])


def product_of(op: ops.Operation) -> str:
    """Which group of products an operation belongs to, or NO_FLOPS."""
    name = op.name.partition(".")[0]
    return GROUPS.get(name, name) if op.flops else NO_FLOPS


def _products(point: Point, device: Device) -> list[dict[str, Any]]:
    work = point.workload
    call = {
        **{"phase": work.phase, "precision": point.recipe.precision},
        **{"batch": work.batch, "tokens": work.prompt_len},
    }
    names = np.array([product_of(op) for op in operations(point)])
    matrix, rows = costs_of(point).matrix, []
    for name in dict.fromkeys((*GROUPS.values(), NO_FLOPS, *names)):
        if (own := matrix[names == name]).size:
            middle, low, high, bound = model.roofline(own, point, device)
            flops, moved = own[:, CAUSAL].sum(), own[:, WEIGHTS : KV_WRITE + 1].sum()
            row = {"operation": name, **call, X: flops / moved}
            row |= {Y: flops / middle, "low": flops / high, "high": flops / low}
            rows.append(row | {"ms": middle * 1e3, "bound": bound})
    whole = sum(row["ms"] for row in rows)
    return [row | {"share": row["ms"] / whole} for row in rows]


# --- benchmarks under a measured roof


def measured_roof(samples: pd.DataFrame, device: Device, width: int) -> Figure:
    """A panel per precision: microbenchmarks (filled) under the device's measured roof.

    The grey line is the estimate for one width x width layer from 1 row to 8192. Where
    the device has a datasheet, its roof is dashed.
    """
    precisions = list(dict.fromkeys(samples["precision"]))
    sheet = datasheet(device) if device.calibrated else None
    roofs = {"datasheet ": sheet, "": device} if sheet else {"": device}
    every = [(of, r, p) for of, r in roofs.items() for p in precisions if r.can(p)]
    top = max(roof.product_rate(p) for _, roof, p in every) * 4
    x, y = (samples[X].min() / 3, samples[X].max() * 3), (samples[Y].min() / 3, top)
    panels: list[Panel] = []
    tables, medians = [samples], []
    for precision in precisions:
        own = samples[samples["precision"] == precision]
        tables.append(path := layer_path(device, precision, width))
        layers = [_roof(r, p, x, y, of=of) for of, r, p in every if p == precision]
        layers += _benchmarks(own, path)
        share, key = own[Y] / own["roof"], "upper left" if sheet or not panels else ""
        head = f"{precision}: {(share > ABOVE).sum()} of {len(own)} above the roof"
        decor = [gridlines()]
        panels.append(Panel(*_axes(x, y), layers, head, key, decor=decor))
        medians.append(f"{percent(share.median())} in {precision}")
    title = f"The median operation reaches {', '.join(medians)} of what its roof allows"
    title += "\nthe data of those above a roof was probably in a cache"
    rows = pd.concat(tables, ignore_index=True)
    for of, roof in roofs.items():
        rows = _with_roofs(rows, roof, of)
    across, down = min(len(panels), 2), -(-len(panels) // 2)
    size = (1.2 + 4.6 * across, 0.4 + 4.9 * down)
    return Figure(panels, title, rows, size, columns=across, share="y")


def _benchmarks(samples: pd.DataFrame, path: pd.DataFrame) -> list[Layer]:
    color = color_of(samples["precision"].iloc[0])
    look: dict[str, Any] = {"color": color, "alpha": 0.75, "size": 6}
    kinds = [(samples[samples["operation"] == name], name) for name in SHAPES]
    marks = [points(own, X, Y, n, marker=SHAPES[n], **look) for own, n in kinds]
    marks.append(line(path, X, Y, path["operation"].iloc[0], color=GREY, dash="-."))
    stops = path[path["rows"].isin(STOPS)]  # named in the legend: marks stay free
    name = "at {}, {} and {:,} rows".format(*STOPS)
    return [*marks, points(stops, X, Y, name, color=GREY, hollow=True, size=5)]


def layer_path(device: Device, precision: str, width: int) -> pd.DataFrame:
    """Estimated FLOP/s of a width x width layer as its rows grow: a path on the roof.

    From the device's fit without residual; the sum of the roofline's terms if it has
    none, launch included.
    """
    a = FORMATS[precision].value
    layers = [ops.linear("linear", m, width, width, a, a) for m in LAYER_ROWS]
    work = work_of([Sample.of(op, 1.0, precision) for op in layers])
    fit = device.fits.find("linear", precision) if device.fits else None
    plain = {"peak": device.peak(precision), "bandwidth": device.bandwidth}
    rates = fit.parameters if fit else plain | {"overhead_s": device.launch_s}
    name = f"estimate: a {width:,} x {width:,} layer"
    columns = {"operation": name, "precision": precision, "rows": LAYER_ROWS}
    speeds = {X: work.flops / work.bytes, Y: work.flops / formula(rates, work)}
    return pd.DataFrame(columns | speeds)


def datasheet(device: Device | None) -> Device | None:
    """The datasheet's row of a calibrated device; None where it has none, as a CPU."""
    try:
        return find_device(device.name) if device else None
    except ValueError:
        return None


# --- a batch of sequences decoded at once


def batch_knee(
    curves: pd.DataFrame, call: str, rows: pd.DataFrame | None = None
) -> Figure:
    """Decode latency above, tokens per second below, against the batch; log-log.

    curves: of `batch_curves`; call: what is decoded where, for the title. Filled marks
    are measured rows. A line is thin and pale beyond the calibrated range, and ends
    where memory is full. What bounds a step stands along the lines, once for lines of
    one colour that run together; a dotted line is the batch at the ridge.
    """
    known = curves[:0] if rows is None else compared(rows)[MEASURED]
    widest = int(curves["batch"].max())
    ticks = [4**n for n in range(12) if 4**n <= widest]
    label, write = "batch (sequences decoded at once)", "{:,.0f}".format
    batch = Axis(label, "log", write, ticks, (0.8, widest))
    knees = curves.groupby("precision", sort=False)["knee"].first().to_dict()
    decor = [gridlines(), *(_ridge(p, b, widest) for p, b in knees.items())]
    ms, rate = "milliseconds a step", "tokens per second"
    upper = [*_curves(curves, "estimated_ms", ENDS), *_bound(curves)]
    upper += _marks(known, "measured_ms", "", "^", " measured")
    lower = [*_curves(curves, "tokens_per_s"), *_marks(known, "tokens_per_s", "", "^")]
    panels = [
        Panel(batch, Axis(ms, "log", si), upper, key="upper left", decor=decor),
        Panel(batch, Axis(rate, "log", si), lower, decor=decor),
    ]
    turns = [f"{p} at batch {_count(b)}" for p, b in knees.items() if b < np.inf]
    title = f"{call}\nlinear layers reach the ridge: {', '.join(turns) or 'never'}"
    tables = [curves, known.assign(series="measured")]
    table = pd.concat(tables[: 1 + bool(len(known))], ignore_index=True)
    return Figure(panels, title, table, (9.0, 6.6), columns=1, share="x")


def _curves(curves: pd.DataFrame, y: str, band: Any = ()) -> list[Layer]:
    """A line for each series, as far as memory reaches, and a cross where it ends."""
    layers: list[Layer] = []
    for n, (series, own) in enumerate(curves.groupby("series", sort=False)):
        look: dict[str, Any] = {"color": color_of(own["precision"].iloc[0])}
        look |= {"dash": DASHES[n % len(DASHES)], "band": band, "sure": "timed"}
        layers.append(line(own[own["fits"]], "batch", y, str(series), **look))
    ends = curves[~curves.groupby("series")["fits"].transform("all") & curves["fits"]]
    ends = ends.groupby("series", sort=False).tail(1)
    full = np.where(ends["batch"].duplicated(), "", "memory full")
    return [*layers, *_marks(ends.assign(full=full), y, "full", "x")]


def _bound(curves: pd.DataFrame) -> list[Layer]:
    """What bounds the step, on each stretch of a line where that is the same.

    Not where a line before is of the same colour, bound by the same, and near.
    """
    fits, named = curves[curves["fits"]], []
    for _, own in fits.groupby("series", sort=False):
        before = fits[fits.index < own.index[0]]
        for _, part in own.groupby((own["bound"] != own["bound"].shift()).cumsum()):
            row, same = part.iloc[len(part) // 2], ["precision", "batch", "bound"]
            near = before[(before[same] == row[same]).all(axis=1)]["estimated_ms"]
            apart = np.abs(np.log(near / row["estimated_ms"]))
            if len(part) >= SHORTEST and not (apart < np.log(CLOSE)).any():
                named.append(row)
    rows = pd.DataFrame(named, columns=curves.columns)
    return _marks(rows, "estimated_ms", "bound", "None")


def _marks(
    rows: pd.DataFrame, y: str, words: str, marker: str, name: str = ""
) -> list[Layer]:
    """Marks in the colour of each precision, with a column of words or a name."""
    look: dict[str, Any] = {"marker": marker, "words": words, "size": 9}
    groups = rows.groupby("precision", sort=False)
    return [
        points(own, "batch", y, name and f"{p}{name}", color=color_of(p), **look)
        for p, own in groups
    ]


def _ridge(precision: str, batch: float, widest: int) -> Callable[[Axes], None]:
    """A dotted line at a batch, named at the foot of the lower panel."""
    color, side = color_of(precision), -1 if batch > widest / 3 else 1
    look: dict[str, Any] = {"color": readable(color), "fontsize": SMALL}
    look |= {"ha": "right" if side < 0 else "left", "textcoords": "offset points"}
    text = f"{precision} ridge\nat batch {_count(batch)}"

    def draw(axes: Axes) -> None:
        if batch < widest:
            axes.axvline(batch, color=color, lw=1, ls=":")
            foot: Any = axes.get_xaxis_transform()
            if axes.get_subplotspec().is_last_row():  # type: ignore[union-attr]
                axes.annotate(text, (batch, 0), (4 * side, 4), xycoords=foot, **look)

    return draw


def _count(batch: float) -> str:
    return digits(batch) if batch < 100 else f"{batch:,.0f}"


def batched(point: Point, batch: int) -> Point:
    """The point at another batch size."""
    return replace(point, workload=replace(point.workload, batch=batch))


def batches_to(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 ... up to `most`: two values for each doubling."""
    steps = [step for n in range(1, 31) for step in (2**n, 3 * 2 ** (n - 1))]
    return [1, *itertools.takewhile(lambda batch: batch <= most, steps)]


def batch_curves(
    calls: Sequence[Point], device: Device, most: int = 2048
) -> pd.DataFrame:
    """Estimated ms and tokens/s of each decode step against its batch, by series.

    Of eager calls; a datasheet's device gets a second series of each, free of launches,
    as if work were handed over for free, which CUDA graphs nearly do.
    """
    devices, tables = {"eager": device}, []
    if not device.calibrated:
        devices["no launches"] = replace(device, launch_s=0.0)
    for point in dict.fromkeys(batched(point, 1) for point in calls):
        name = f"{point.recipe.precision}: {point.workload.prompt_len:,} cached"
        for how, one in devices.items():
            curve = batch_curve(point, one, batches_to(most))
            tables.append(curve.assign(series=f"{name}, {how}"))
    return pd.concat(tables, ignore_index=True)


def batch_curve(point: Point, device: Device, batches: Sequence[int]) -> pd.DataFrame:
    """Estimated ms and tokens/s of a decode step against its batch.

    fits: whether weights, cache and activations find room in the device's memory;
    timed: whether calibration timed operations as large; knee: the batch at the ridge.
    """
    estimates = estimate([batched(point, batch) for batch in batches], device)
    seconds = np.array([(e.seconds, e.low_s, e.high_s) for e in estimates])
    room = largest_batch(point, device.memory_bytes)
    columns = dict(zip(("estimated_ms", *ENDS), 1e3 * seconds.T, strict=True))
    columns |= {"tokens_per_s": batches / seconds[:, 0]}
    return pd.DataFrame(
        {
            "precision": point.recipe.precision,
            "batch": batches,
            **columns,
            "bound": [e.bound for e in estimates],
            "timed": [not e.extrapolated for e in estimates],
            "fits": [batch <= room for batch in batches],
            "knee": knee(point, device),
        }
    )


def knee(point: Point, device: Device) -> float:
    """Batch at which a decode step's linear layers reach the ridge; inf if they never.

    FLOPs and activations grow with the batch B, weights do not:
    B flops / (weights + B activations) = ridge, solved for B.
    """
    linears = [op for op in operations(batched(point, 1)) if op.kind in ops.PRODUCTS]
    flops, weights, activations = (
        sum(op.times * getattr(op, name) for op in linears)
        for name in ("flops", "weight_bytes", "activation_bytes")
    )
    ridge = device.ridge(point.recipe.precision)
    left = flops - ridge * activations
    return ridge * weights / left if left > 0 else float("inf")


# --- the explorer


def roofs(point: Point, *devices: Device | None) -> Explorer:
    """Batch, prompt, device and precision against the marks of prefill and decode.

    `devices` are offered first, then some of the datasheets.
    """
    shape = replace(point.shape, max_positions=max(*LENGTHS, 131072) + 1)
    phases = ("prefill",) if shape.family == "bert" else ("prefill", "decode")

    def make(batch: int, prompt_len: int, device: Device, precision: str) -> Figure:
        works = [Workload(phase, batch, prompt_len) for phase in phases]
        calls = [Point(shape, work, Recipe(precision)) for work in works]
        top, low = max(device.peak_flops.values()) * 4, device.bandwidth * LEFT / 30
        limits = (LEFT, RIGHT), (low, top)  # the same in all states of a device
        figure = roofline(on_the_roof(calls, device), device, limits)
        note = "; ".join(_note(call, device) for call in calls)
        return replace(figure, note=f"batch {batch}, {prompt_len:,} tokens: {note}")

    work = point.workload
    start = {"batch": work.batch, "prompt_len": work.prompt_len}
    return explore(
        make,
        start | {"precision": point.recipe.precision},
        "estimated: nothing runs",
        batch=around(BATCHES, work.batch),
        prompt_len=around(LENGTHS, work.prompt_len),
        device=device_menu(*devices),
        precision=lambda state: [p for p in PRECISIONS if state["device"].can(p)],
    )


def device_menu(*devices: Device | None) -> dict[str, Device]:
    """Devices by the name that a menu shows: the given ones, then datasheets."""
    every = [*filter(None, devices), *map(find_device, DEVICES)]
    return {one.name + " (calibrated)" * one.calibrated: one for one in every}


def _note(point: Point, device: Device) -> str:
    """A call in words: what bounds it, its shares of the peaks, whether it fits."""
    (cost,) = estimate([point], device)
    moved = cost.weight_bytes + cost.activation_bytes
    moved += cost.kv_read_bytes + cost.kv_write_bytes
    peak = device.product_rate(point.recipe.precision)
    mfu = percent(cost.flops_causal / peak / cost.seconds)
    mbu = percent(moved / device.bandwidth / cost.seconds)
    phase, ms = point.workload.phase, digits(1e3 * cost.seconds)
    words = f"{phase} {ms} ms, bound by {cost.bound}, MFU {mfu}, MBU {mbu}"
    fits = cost.peak_bytes <= device.memory_bytes
    return words if fits else f"{words}, but does not fit in memory"
