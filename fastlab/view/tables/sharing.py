"""Palettes beside integers: exact bytes, rounding noise, what a text loses, time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastlab.clock.evaluator import Evaluator, built
from fastlab.notebook.progress import line
from fastlab.spec.point import Point
from fastlab.spec.precision import FORMATS, stored_bytes
from fastlab.spec.recipe import Recipe
from fastlab.spec.sharing import Sharing, palette_bytes, tables_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from fastlab.notebook.run import Run
    from fastlab.record import Quality, Record
    from fastlab.shrink.trained import Trained

VALUE = 2  # bytes of a table's value, a scale or a zero point: bf16
GROUP = 64  # weights that share a scale where integers are rounded in groups
UNIFORM = "uniform, groups of 64"
ONE, EACH = "palette, one table", "palette, a table a row"
Rounded = Callable[["Tensor"], "Tensor"]


def palette(weight: Tensor, bits: int, rows: int = 0) -> tuple[Tensor, Tensor]:
    """A weight (n, k) as its palette gives it back, and the tables (groups, 2^bits)."""
    import torch

    from fastlab.shrink.codebooks import codebooks_of

    groups = weight.float().reshape(tables_of(Sharing(bits, rows), len(weight)), -1)
    tables, codes = codebooks_of(groups, bits)
    return torch.gather(tables, 1, codes.long()).view(weight.shape), tables


def uniform(weight: Tensor, bits: int, group: int = 0) -> Tensor:
    """A weight (n, k) rounded to 2^bits evenly spaced values, from least to largest.

    group: neighbours in a row that share a scale and a zero point; 0 = all weights.
    """
    parts = weight.float().reshape(-1, group or weight.numel())
    low, high = parts.amin(1, keepdim=True), parts.amax(1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp(min=2.0**-24)
    return (((parts - low) / step).round() * step + low).view(weight.shape)


def sqnr(weight: Tensor, rounded: Tensor) -> float:
    """Signal over rounding noise in dB: 10 log10(sum w^2 / sum (w - q)^2)."""
    noise = float((weight.float() - rounded).double().square().sum())
    signal = float(weight.double().square().sum())
    return 10 * math.log10(signal / noise) if noise else math.inf


def uniform_bytes(bits: int, n: int, k: int, group: int = GROUP) -> int:
    """Bytes of a weight (n, k) in integers: indices, scales and zero points."""
    pairs = n * k // group if group else 1
    return -(-n * k * bits // 8) + 2 * VALUE * pairs


class Scheme:
    """One way to store a weight: its name, bits, bytes of (n, k), and the rounding."""

    def __init__(
        self, kind: str, bits: int, size: Callable[[int, int], int], to: Rounded
    ):
        self.kind, self.bits, self.size, self.to = kind, bits, size, to


def schemes(bits: Sequence[int]) -> list[Scheme]:
    """Every way that is compared: palettes with one table and with one a row, uniform
    rounding in groups, int8 and int4-g64 as `fl.quantize` makes them.
    """
    made = [_palette(ONE, b, 0) for b in bits]
    made += [_palette(EACH, b, 1) for b in bits if b < 6]
    made += [_uniform(b) for b in bits]
    return [*made, _integer("int8", 8), _integer("int4-g64", 4)]


def _palette(kind: str, bits: int, rows: int) -> Scheme:
    own = Sharing(bits, rows)
    return Scheme(
        kind,
        bits,
        lambda n, k: palette_bytes(own, n, k, VALUE),
        lambda weight: palette(weight, bits, rows)[0],
    )


def _uniform(bits: int) -> Scheme:
    return Scheme(
        UNIFORM,
        bits,
        lambda n, k: uniform_bytes(bits, n, k),
        lambda weight: uniform(weight, bits, GROUP),
    )


def _integer(precision: str, bits: int) -> Scheme:
    made = FORMATS[precision]
    group = made.group

    def to(weight: Tensor) -> Tensor:
        from fastlab.shrink.rounding import int4_groups, int8_rows

        if not group:
            q, scales = int8_rows(weight)
            return q.float() * scales.float()[:, None]
        q, pairs = int4_groups(weight, group)
        scale, zero = pairs.float().transpose(0, 1).unbind(-1)
        parts = q.float().unflatten(1, (-1, group)) - 8
        return (parts * scale[..., None] + zero[..., None]).flatten(1)

    return Scheme(precision, bits, lambda n, k: stored_bytes(made, n, k, VALUE), to)


def bytes_and_quality(
    trained: Trained, judge: Evaluator, bits: Sequence[int]
) -> pd.DataFrame:
    """The trained model's layers stored in every scheme, and what each loses.

    Columns: kind, bits, bits_per_weight and mb as stored (tables and scales counted),
    model_mb (with embeddings and norms in bf16), sqnr_db over all weights of the
    layers, kl_nats with its interval, top1, bits_per_byte, of_dense. Rounded weights
    are put into a dense fp32 model: only the rounding is judged.
    """
    import pandas as pd

    model = built(trained)
    originals = _weights(model)
    found = schemes(bits)
    lines = []
    with line().steps(len(found), "rounding and judging") as done:
        for scheme in found:
            lines.append(_scheme_line(scheme, model, originals, judge))
            done(f"{scheme.kind}, {scheme.bits} bits")
    _put(model, originals.items())
    return pd.DataFrame(lines)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    from fastlab.shrink import parts

    names = parts.linear_names(model, "layers")
    return {
        n: parts.dense_weight(model.get_submodule(n)).detach().clone() for n in names
    }


def _put(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> None:
    import torch

    from fastlab.shrink import parts

    with torch.no_grad():
        for name, weight in weights:
            parts.dense_weight(model.get_submodule(name)).copy_(weight)


def _scheme_line(
    scheme: Scheme, model: nn.Module, originals: dict[str, Tensor], judge: Evaluator
) -> dict[str, Any]:
    noise = signal = 0.0

    def rounded() -> Iterator[tuple[str, Tensor]]:
        nonlocal noise, signal
        for name, weight in originals.items():
            new = scheme.to(weight)
            noise += float((weight - new).double().square().sum())
            signal += float(weight.double().square().sum())
            yield name, new

    _put(model, rounded())
    shapes = [tuple(weight.shape) for weight in originals.values()]
    stored = sum(scheme.size(n, k) for n, k in shapes)
    count = sum(n * k for n, k in shapes)
    rest = VALUE * (sum(p.numel() for p in model.parameters()) - count)
    sizes = {"bits_per_weight": 8 * stored / count, "mb": stored / 1e6}
    sizes |= {"model_mb": (stored + rest) / 1e6}
    sizes |= {"sqnr_db": 10 * math.log10(signal / noise) if noise else math.inf}
    line = {"kind": scheme.kind, "bits": scheme.bits}
    return line | sizes | _lost(judge.quality(model))


def _lost(found: Quality) -> dict[str, Any]:
    names = ("kl_nats", "kl_low", "kl_high", "top1", "bits_per_byte", "low", "high")
    line = {name: getattr(found, name) for name in names}
    dense = found.dense_bits_per_byte
    assert dense is not None and found.bits_per_byte is not None
    return line | {"of_dense": found.bits_per_byte / dense}


def looked_up(*runs: Run) -> pd.DataFrame:
    """Time of each way to store weights beside the dense one of the same precision.

    Columns: storage, precision, bits, phase, measured_ms with its interval, n,
    estimated_ms, measured_gain (the speed-up over its own dense row), estimated_gain,
    weights_mb, device, run (caption). Rows without a measurement are left out.
    """
    import pandas as pd

    lines = [
        _time_line(record) | {"run": run.caption} for run in runs for record in own(run)
    ]
    names = list(lines[0]) if lines else list(_TIMES)
    table = pd.DataFrame(lines, columns=names)
    table = table[table["measured_ms"].notna()].reset_index(drop=True)
    for what in ("measured", "estimated"):
        table[f"{what}_gain"] = [
            _dense(table, row, f"{what}_ms") / row[f"{what}_ms"]
            for _, row in table.iterrows()
        ]
    return table


_TIMES = (
    *("storage", "dense", "bits", "phase", "device", "measured_ms"),
    *("measured_low_ms", "measured_high_ms", "n", "estimated_ms", "weights_mb", "run"),
)


def own(run: Run) -> list[Record]:
    """What is known of the run's own points, in their order; nothing is measured."""
    if run.reference is not None:
        return run.reference.rows(run.points)
    place, settings = {p: n for n, p in enumerate(run.points)}, run.settings.to_dict()
    here = (r for r in run.store.records(samples=False) if r.device == run.device)
    found = [r for r in here if r.point in place and dict(r.settings) == settings]
    return sorted(found, key=lambda record: place[record.point])


def _time_line(record: Record) -> dict[str, Any]:
    recipe, taken, made = record.point.recipe, record.measured, record.estimate
    line: dict[str, Any] = {"storage": storage(recipe), "dense": recipe.format.dense}
    line |= {"bits": _bits(recipe), "phase": record.point.workload.phase}
    line |= {"device": record.device}
    ends = (taken.seconds, taken.low_s, taken.high_s) if taken else (math.nan,) * 3
    names = ("measured_ms", "measured_low_ms", "measured_high_ms")
    line |= {name: 1e3 * s for name, s in zip(names, ends, strict=True)}
    line |= {"n": taken.n if taken else 0}
    line |= {"estimated_ms": 1e3 * made.seconds if made else math.nan}
    stored = record.effective
    return line | {"weights_mb": stored.weight_bytes / 1e6 if stored else math.nan}


def storage(recipe: Recipe) -> str:
    """How a recipe stores weights: dense fp32, 3-bit palette, int8."""
    if recipe.sharing is not None:
        return f"{recipe.sharing.bits}-bit palette"
    return recipe.precision if recipe.format.weights else f"dense {recipe.precision}"


def _bits(recipe: Recipe) -> int:
    if recipe.sharing is not None:
        return recipe.sharing.bits
    return {"int8": 8, "int4": 4}.get(recipe.format.weights, 0) or _wide(recipe)


def _wide(recipe: Recipe) -> int:
    return 32 if recipe.format.dense in ("fp32", "tf32") else 16


def _dense(table: pd.DataFrame, row: pd.Series, column: str) -> float:
    """The dense row of the same precision, phase and device."""
    same = (table["phase"] == row["phase"]) & (table["device"] == row["device"])
    found = table[same & (table["storage"] == f"dense {row['dense']}")][column]
    return float(found.iloc[0]) if len(found) else math.nan


def stored_points(
    points: Sequence[Point], precisions: Sequence[str], bits: Sequence[int] = ()
) -> list[Point]:
    """Each point in each precision; in fp32 with palettes of so many bits too."""
    from dataclasses import replace

    recipes = [Recipe(precision=p) for p in precisions]
    if "fp32" in precisions:
        recipes += [Recipe(sharing=Sharing(b)) for b in bits]
    return [replace(point, recipe=r) for r in recipes for point in points]
