"""Where operations stand under a roof, what bounds a call, and what a batch changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.cost import ops
from fastlab.cost.operations import operations
from fastlab.cost.ops import Operation
from fastlab.cost.passes import VALUE_BYTES
from fastlab.latency.costs import CAUSAL, KV_WRITE, LAUNCHES, WEIGHTS, costs_of
from fastlab.latency.devices import Device
from fastlab.latency.devices import device as find_device
from fastlab.latency.estimates import estimate
from fastlab.latency.fit import formula
from fastlab.latency.roofline import roofline
from fastlab.latency.samples import Sample, class_of, work_of
from fastlab.spec.point import Point

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.notebook.run import Run

PRODUCTS = ("QKV", "attention", "out", "MLP", "head")
NO_FLOPS = "no FLOPs"  # norms, elementwise, look-ups, copies
WALK = tuple(2**n for n in range(14))  # rows of the layer whose path is drawn
TIMED = {"linear": 1.0, "prefill": 0.4, "decode": 0.4}  # of `count`, by class
NAMES = {"prefill": "attention, prefill", "decode": "attention, decode"}


def product_of(op: Operation) -> str:
    """Which of PRODUCTS an operation belongs to, or NO_FLOPS."""
    if not op.flops:
        return NO_FLOPS
    first = op.name.partition(".")[0]
    return {"mlp": "MLP", "q": "QKV", "k": "QKV", "v": "QKV", "qkv": "QKV"}.get(
        first, first
    )


def on_the_roof(points: Iterable[Point], device: Device) -> pd.DataFrame:
    """Each product of each call: FLOPs per byte, and FLOP/s by the roofline's band.

    The band (low, high) is that of `latency.roofline`: from all costs hidden behind the
    longest to none hidden, launches included; share = of the call's time. Precisions
    that the device cannot do are left out; ValueError if nothing remains.
    """
    import pandas as pd

    points = list(points)
    able = [p for p in points if device.can(p.recipe.precision)]
    if points and not able:
        device.product_rate(points[0].recipe.precision)
    return pd.DataFrame([row for point in able for row in _products(point, device)])


def _products(point: Point, device: Device) -> list[dict[str, Any]]:
    names = np.array([product_of(op) for op in operations(point)])
    matrix = costs_of(point).matrix
    found = [n for n in (*PRODUCTS, NO_FLOPS) if (names == n).any()]
    rows = [_product(n, matrix[names == n], point, device) for n in found]
    whole = sum(row["ms"] for row in rows)
    return [row | {"share": row["ms"] / whole} for row in rows]


def _product(
    name: str, matrix: np.ndarray, point: Point, device: Device
) -> dict[str, Any]:
    middle, low, high, bound = roofline(matrix, point, device)
    flops, moved = matrix[:, CAUSAL].sum(), matrix[:, WEIGHTS : KV_WRITE + 1].sum()
    return {
        "operation": name,
        **_call(point),
        "FLOP per byte": flops / moved,
        "FLOP/s": flops / middle,
        "low": flops / high,
        "high": flops / low,
        "ms": middle * 1e3,
        "bound": bound,
    }


def _call(point: Point) -> dict[str, Any]:
    work = point.workload
    sizes = {"batch": work.batch, "tokens": work.prompt_len}
    return {"phase": work.phase, "precision": point.recipe.precision} | sizes


def bounds(points: Iterable[Point], device: Device) -> pd.DataFrame:
    """What each call would take of arithmetic, memory and launches alone, in ms.

    MFU and MBU: per cent of the device's FLOP/s and bytes/s used in the estimated time.
    """
    import pandas as pd

    return pd.DataFrame([_bounds(point, device) for point in points])


def _bounds(point: Point, device: Device) -> dict[str, Any]:
    total, made = costs_of(point).totals, estimate([point], device)[0]
    compute = total[CAUSAL] / device.product_rate(point.recipe.precision)
    memory = sum(total[WEIGHTS : KV_WRITE + 1]) / device.bandwidth
    return _call(point) | {
        "arithmetic ms": compute * 1e3,
        "memory ms": memory * 1e3,
        "launches ms": total[LAUNCHES] * device.launch_s * 1e3,
        "estimated ms": made.seconds * 1e3,
        "bound": made.bound,
        "MFU %": 100 * compute / made.seconds,
        "MBU %": 100 * memory / made.seconds,
    }


def microbenchmarks(run: Run, precisions: Sequence[str], count: int) -> pd.DataFrame:
    """Products and attentions by themselves: FLOPs per byte, and FLOP/s, measured.

    Replayed from the rows' device, or `count` linears of each precision timed here
    (about 0.3 s each) and a few attentions. roof = FLOP/s that the profile allows.
    """
    import pandas as pd

    device = run.profile
    able = [p for p in precisions if device and device.can(p)]
    if device is None or not able:
        raise ValueError(f"{run.device} has no profile for {', '.join(precisions)}")
    stored = run.reference.samples if run.reference else None
    samples = _timed(device, able, count) if stored is None else stored
    chosen = [s for s in samples if class_of(s) in TIMED and s.precision in able]
    classes = list(TIMED)
    chosen.sort(key=lambda s: (able.index(s.precision), classes.index(class_of(s))))
    return pd.DataFrame([_sample(s, device) for s in chosen])


def _timed(device: Device, precisions: Sequence[str], count: int) -> list[Sample]:
    from fastlab.clock.clocks import clock_for
    from fastlab.clock.microbench import chosen, timed

    counts = {name: max(1, round(count * share)) for name, share in TIMED.items()}
    clock = clock_for(device.kind)
    return [
        timed(bench, device, precision, clock)
        for precision in precisions
        for bench in chosen(device, precision, counts)
    ]


def _sample(sample: Sample, device: Device) -> dict[str, Any]:
    kind, intensity = class_of(sample), sample.flops / sample.bytes
    peak = device.product_rate(sample.precision)
    return {
        "operation": NAMES.get(kind, kind),
        "precision": sample.precision,
        "dims": " x ".join(map(str, sample.dims)),
        "FLOP per byte": intensity,
        "FLOP/s": sample.flops / sample.seconds,
        "roof": min(peak, intensity * device.bandwidth),
        "ms": sample.seconds * 1e3,
        "device": sample.device,
    }


def walk(device: Device, precision: str, width: int) -> pd.DataFrame:
    """Estimated FLOP/s of a width x width layer as its rows grow: a path on the roof.

    From the device's fit without residual; the sum of the roofline's terms if it has
    none, launch included.
    """
    import pandas as pd

    a = VALUE_BYTES[precision]
    layers = [ops.linear("linear", m, width, width, a, a) for m in WALK]
    work = work_of([Sample.of(op, 1.0, precision) for op in layers])
    fit = device.fits.find("linear", precision) if device.fits else None
    plain = {"peak": device.peak(precision), "bandwidth": device.bandwidth}
    rates = fit.parameters if fit else plain | {"overhead_s": device.launch_s}
    speed = work.flops / formula(rates, work)
    columns = {"rows": WALK, "FLOP per byte": work.flops / work.bytes}
    return pd.DataFrame(columns | {"FLOP/s": speed})


def datasheet(device: Device | None) -> Device | None:
    """The datasheet's row of a calibrated device; None where it has none, as a CPU."""
    try:
        return find_device(device.name) if device else None
    except ValueError:
        return None
