"""The article's own path, step by step: its formula, FLOPs, our estimate, the clock.

One line a step, each with its speed-up over the first by every one of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastlab import machine
from fastlab.cost import article
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.record import Estimate, Measurement, Quality, Record
from fastlab.spec.grids import point_of
from fastlab.spec.point import Point
from fastlab.spec.precision import QUANTIZED

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.notebook.run import Run

# 12 layers of 768 become 3 of 512: three quarters of the depth, a third of the width.
CUT: dict[str, Any] = {
    **{"prune_layers": 0.75, "prune_heads": 0.33, "prune_hidden": 0.33},
    **{"prune_ffn": 0.33, "prune_multiple": 64},
}
LAST = "last logits"  # our own further step: the head for one position only
SOURCES = ("printed", "formula", "counted", "estimated", "measured")
SIXTEEN_BIT_CLAIM = 8.0  # what the article divides the operations by, for 16 bit
# ... and what its optimised code then saves: 1.875e7 becomes 1.75e7.
OPTIMISED_CLAIM = article.PRINTED_16_BIT / article.PRINTED_OPTIMISED
NO_ROW = "no row"
POSITIONS = 1024  # of GPT-2, and the article's n
LATER = {"compiled", LAST, "8 bit"}  # steps that the article's "optimised" covers


def case_points(
    layers: int = 12,
    hidden: int = 768,
    prompt_len: int = POSITIONS,
    formats: Sequence[str] = ("bf16", "int8"),
    compiled: bool = True,
    **over: Any,
) -> dict[str, dict[str, Point]]:
    """phase -> step -> point, of a gpt2 with random weights.

    prefill: dense, pruned, 16 bit (the first of `formats`), compiled, and the head for
    the last position alone. decode: dense, pruned, 16 bit, compiled, 8 bit (the second
    of `formats`, output head too), each the step that fills position `prompt_len`.
    Steps that change nothing are left out.
    """
    room = max(POSITIONS, prompt_len)
    shape = {"family": "gpt2", "layers": layers, "hidden": hidden, **over}
    shape["max_positions"] = room
    return {
        phase: _distinct(
            {
                name: point_of(**shape, phase=phase, **fields)
                for name, fields in _path(phase, prompt_len, formats, compiled).items()
            }
        )
        for phase in ("prefill", "decode")
    }


def _path(
    phase: str, prompt_len: int, formats: Sequence[str], compiled: bool
) -> dict[str, dict[str, Any]]:
    """step -> fields that differ from the dense model's, each step with all before."""
    reads = phase == "prefill"
    cached = max(prompt_len if reads else prompt_len - 1, 1)
    now: dict[str, Any] = {"prompt_len": cached}
    steps = {"dense": dict(now)}
    added = {"pruned": CUT, "16 bit": {"precision": formats[0]}}
    if compiled:
        added["compiled"] = {"runtime": "compile" if reads else decoder()}
    if reads:
        added[LAST] = {"logits": "last"}
    elif len(formats) > 1:
        scope = {"scope": "head"} if formats[1] in QUANTIZED else {}
        added["8 bit"] = {"precision": formats[1], **scope}
    for name, fields in added.items():
        now |= fields
        steps[name] = dict(now)
    return steps


def decoder() -> str:
    """The fastest runtime for decode steps here: a CUDA graph, else compiled code."""
    return "graph" if machine.torch_device() == "cuda" else "decoder"


def _distinct(steps: Mapping[str, Point]) -> dict[str, Point]:
    """The steps without those whose point is the one before."""
    kept: dict[str, Point] = {}
    for name, point in steps.items():
        if point not in kept.values():
            kept[name] = point
    return kept


def case_rows(
    run: Run, paths: Mapping[str, Mapping[str, Point]]
) -> dict[str, pd.DataFrame]:
    """phase -> a line for each step, replayed or measured; one without a row says so.

    paths: phase -> step -> point.
    """
    records = run.records()
    return {
        phase: case_of(steps, records, run.profile) for phase, steps in paths.items()
    }


def case_of(
    steps: Mapping[str, Point],
    records: Iterable[Record],
    profile: Device | None = None,
) -> pd.DataFrame:
    """One line a step: what the article says, FLOPs, ms estimated and measured, loss.

    All estimates are made afresh with `profile`, else they are the records' own.
    X_gain = the first step's X over this one's: above 1 is faster. printed_gain is only
    there for the sizes that the article prints.
    """
    import pandas as pd

    taken = {record.point: record for record in records}
    lines = [
        {"step": name, **_line(point, taken.get(point), profile)}
        for name, point in steps.items()
    ]
    table = pd.DataFrame(lines, columns=[*_NAMES])
    table["formula"] = _claimed(steps)
    table["printed"] = _printed(steps)
    for what in SOURCES:
        column = f"{what}_ms" if what in ("estimated", "measured") else what
        values = table[column].astype(float)
        table[f"{what}_gain"] = values.iloc[0] / values if len(values) else values
    return table


_NAMES = (
    *("step", "built", "phase", "precision", "runtime", "device", "status", "reason"),
    *("counted", "estimated_ms", "estimated_low_ms", "estimated_high_ms", "bound"),
    *("measured_ms", "measured_low_ms", "measured_high_ms", "n"),
    *("weights_mb", "kl_nats", "top1", "bits_per_byte", "bits_low", "bits_high"),
)


def _line(
    point: Point, record: Record | None, profile: Device | None
) -> dict[str, Any]:
    shape, recipe = point.built_shape, point.recipe
    line: dict[str, Any] = {"built": f"{shape.layers} x {shape.hidden}"}
    line |= {"phase": point.workload.phase, "precision": recipe.precision}
    line |= {"runtime": recipe.runtime, "status": NO_ROW, "reason": "not stored"}
    line |= _estimated(_made(point, record, profile))
    if record is None:
        return line
    line |= {"device": record.device, "status": record.status, "reason": record.reason}
    if record.effective:
        line["weights_mb"] = record.effective.weight_bytes / 1e6
    return line | _measured(record.measured) | _lost(record.quality)


def _made(
    point: Point, record: Record | None, profile: Device | None
) -> Estimate | None:
    if profile is None:
        return record.estimate if record else None
    try:
        return estimate([point], profile)[0]
    except ValueError:  # a precision that the device does not have
        return None


def _estimated(made: Estimate | None) -> dict[str, Any]:
    if made is None:
        return {}
    ends = {"estimated_low_ms": made.low_s, "estimated_high_ms": made.high_s}
    times = {"estimated_ms": made.seconds} | ends
    counts = {"counted": made.flops, "bound": made.bound}
    return {name: 1e3 * s for name, s in times.items()} | counts


def _measured(taken: Measurement | None) -> dict[str, Any]:
    if taken is None:
        return {}
    ends = {"measured_low_ms": taken.low_s, "measured_high_ms": taken.high_s}
    times = {"measured_ms": taken.seconds} | ends
    return {name: 1e3 * s for name, s in times.items()} | {"n": taken.n}


def _lost(quality: Quality | None) -> dict[str, Any]:
    if quality is None:
        return {}
    names = ("kl_nats", "top1", "bits_per_byte")
    found = {name: getattr(quality, name) for name in names}
    return found | {"bits_low": quality.low, "bits_high": quality.high}


def _claimed(steps: Mapping[str, Point]) -> list[float]:
    """The article's formula for each step, its multiplication done right.

    2 L n H^2, of what is built; a further 8 for 16 bit and 1.07 for "optimised", as it
    claims. None of a decode step: the article has no formula for it.
    """
    found, base = [], float("nan")
    for name, point in steps.items():
        work, shape = point.workload, point.built_shape
        if work.phase == "prefill" and name not in ("16 bit", *LATER):
            base = article.article_as_printed(
                work.prompt_len, shape.layers, shape.hidden
            )
        smaller = SIXTEEN_BIT_CLAIM if name in ("16 bit", *LATER) else 1.0
        smaller *= OPTIMISED_CLAIM if name in LATER else 1.0
        found.append(base / smaller)
    return found


def _printed(steps: Mapping[str, Point]) -> list[float]:
    """What the article prints for each step, NaN where it prints nothing."""
    nothing = [float("nan")] * len(steps)
    sizes = [
        (p.workload.prompt_len, p.built_shape.layers, p.built_shape.hidden)
        for p in steps.values()
    ]
    if len(sizes) < 2 or set(sizes) != set(article.PRINTED):
        return nothing
    said = {"dense": article.PRINTED_BOTH_PASSES, "pruned": article.PRINTED[sizes[1]]}
    said |= {"16 bit": article.PRINTED_16_BIT, "compiled": article.PRINTED_OPTIMISED}
    if any(p.workload.phase != "prefill" for p in steps.values()):
        return nothing
    return [said.get(name, float("nan")) for name in steps]
