"""Score the latency model on public kernel timings, which stay outside the repository.

    python benchmarks/public_kernels.py FOLDER [--points 24 48 96] [--repeats 4]

FOLDER holds *gemm*.csv, *attention_prefill*.csv and *attention_decode*.csv (or .gz)
with the columns dtype, m, n, k | batch_size, seq_len or kv_len, num_heads,
num_key_value_heads, head_dim, and latency_ms. Printed: median / mean / p90 of the
absolute error in %, on shapes that the fit has not seen, and on transformer blocks
(4 h x h, h -> 4h and 4h -> h products and causal attention) calibrated only on shapes
that no block has, of the sizes that `fastlab calibrate` takes, and on grouped-query
attention.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastlab.cost import ops
from fastlab.latency.calibrated import ALIKE
from fastlab.latency.devices import Device, device
from fastlab.latency.estimates import EFFICIENCIES
from fastlab.latency.fit import fit
from fastlab.latency.profile import formula
from fastlab.latency.samples import Sample, Work, work_of
from fastlab.scores.correction import Errors

PRECISIONS = {"bfloat16": "bf16", "fp8": "fp8-dynamic"}
VARIANTS = {"fitted": (), "no residual": ("residual",)}
# Of the products that `fastlab calibrate` times: outputs for each input (or the
# reverse), and rows. Blocks reach four times as many.
WIDEST, MOST_ROWS = 8, 8192
NEAR = 0.7  # log distance within which a measured shape stands in for a block's own


class Rows(NamedTuple):
    """Timed operations of one class, and what of their shape is held out together."""

    samples: list[Sample]
    shapes: list[tuple[int, ...]]
    work: Work
    times: np.ndarray

    @property
    def pairs(self) -> Iterator[tuple[tuple[int, ...], Sample]]:
        """Each sample behind its shape."""
        return zip(self.shapes, self.samples, strict=True)

    @property
    def precision(self) -> str:
        """The number format that all of them have."""
        return self.samples[0].precision


def lines(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of the CSV named *`name`*; FileNotFoundError where there is none."""
    for path in sorted(folder.glob(f"*{name}*.csv*")):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", newline="") as file:
            return list(csv.DictReader(file))
    raise FileNotFoundError(f"{folder} has no *{name}*.csv or *{name}*.csv.gz")


def rows(samples: list[Sample], shapes: list[tuple[int, ...]]) -> Rows:
    """Samples with the columns that fits read."""
    times = np.array([sample.seconds for sample in samples])
    return Rows(samples, shapes, work_of(samples), times)


def products(folder: Path, dtype: str) -> Rows:
    """The matrix products of one dtype; inputs of 2 or 1 bytes, outputs of 2."""
    found, shapes, precision = [], [], PRECISIONS[dtype]
    size = 1 if precision == "fp8-dynamic" else 2
    for line in lines(folder, "gemm"):
        if line["dtype"] == dtype:
            m, n, k = (int(line[name]) for name in "mnk")
            op = ops.linear("gemm", (m, n, k), size)
            op = op._replace(activation_bytes=size * m * k + 2 * m * n)
            found.append(Sample.of(op, float(line["latency_ms"]) / 1e3, precision))
            shapes.append((n, k))
    return rows(found, shapes)


def attentions(folder: Path, phase: str) -> Rows:
    """The attention kernels of one phase, in bf16."""
    found, shapes = [], []
    for line in lines(folder, f"attention_{phase}"):
        layout = tuple(
            int(line[name]) for name in ("num_heads", "num_key_value_heads", "head_dim")
        )
        length = int(line["seq_len" if phase == "prefill" else "kv_len"])
        new, past = (length, 0) if phase == "prefill" else (1, length)
        dims = (int(line["batch_size"]), new, past, *layout)
        op = ops.attention(phase, dims, 2)
        found.append(Sample.of(op, float(line["latency_ms"]) / 1e3, "bf16"))
        shapes.append(layout)
    return rows(found, shapes)


def layer_like(dims: Sequence[int]) -> bool:
    """Whether a layer has such a product (m, n, k): neither very flat nor very deep."""
    rows, *sizes = dims
    return rows <= MOST_ROWS and max(sizes) <= WIDEST * min(sizes)


def spread_out(places: np.ndarray, pool: np.ndarray, count: int) -> np.ndarray:
    """`count` of the indices `pool`, each the farthest from those before it."""
    near = places[pool]
    distance = ((near - near.mean(axis=0)) ** 2).sum(axis=1)
    chosen = [int(distance.argmin())]
    distance = np.full(len(pool), np.inf)
    while len(chosen) < min(count, len(pool)):
        step = ((near - near[chosen[-1]]) ** 2).sum(axis=1)
        distance = np.minimum(distance, step)
        chosen.append(int(distance.argmax()))
    return pool[chosen]


def predictions(data: Rows, pool: np.ndarray, count: int, where: Device) -> dict:
    """(seconds, half-width in log units) of all rows, per variant of the model."""
    chosen = spread_out(data.work.places, pool, count)
    samples = [data.samples[i] for i in chosen]
    made = {name: fit(samples, where, without) for name, without in VARIANTS.items()}
    return {name: one.predict(data.work) for name, one in made.items()}


def by_datasheet(data: Rows, where: Device, shares: tuple[float, float]) -> np.ndarray:
    """Seconds at shares of the datasheet's peak and bandwidth, no overhead."""
    peak = where.product_rate(data.precision) * shares[0]
    rates = {"peak": peak, "bandwidth": where.bandwidth * shares[1]}
    return formula(rates, data.work)


def figures(predicted: np.ndarray, measured: np.ndarray) -> list[float]:
    """Median, mean and 90th percentile of the absolute error in %."""
    e = Errors.of("", predicted, measured)
    return [e.median, e.mean, e.p90]


def covered(off: np.ndarray, half: np.ndarray) -> list[float]:
    """% of rows whose log error `off` is within `half`, and the median of that in %."""
    inside = np.abs(off) <= half
    return [100 * float(inside.mean()), 100 * float(np.median(np.expm1(half)))]


def halves(shapes: Sequence[Hashable], seed: int) -> np.ndarray:
    """True for rows of the half of the shapes that is held out."""
    known = sorted(set(shapes))
    order = np.random.default_rng(seed).permutation(len(known))
    held = {known[i] for i in order[: len(known) // 2]}
    return np.array([shape in held for shape in shapes])


def kernels(data: Rows, where: Device, count: int, repeats: int) -> dict[str, list]:
    """Errors and coverage on held-out shapes, per variant and repeat."""
    found: dict[str, list] = {name: [] for name in VARIANTS}
    for seed in range(repeats):
        held = halves(data.shapes, seed)
        made = predictions(data, np.flatnonzero(~held), count, where)
        for name, (seconds, half) in made.items():
            off = np.log(seconds / data.times)[held]
            row = figures(seconds[held], data.times[held]) + covered(off, half[held])
            found[name].append(row)
    return found


class Blocks(NamedTuple):
    """Rows of attention and of three products whose times make up each block."""

    attention: np.ndarray
    products: np.ndarray  # [blocks, 3]: h x h, h -> 4h, 4h -> h
    exact: int  # blocks whose three products were measured as such

    def total(self, attention: np.ndarray, product: np.ndarray) -> np.ndarray:
        """Seconds of each block from those of all rows."""
        return attention[self.attention] + product[self.products] @ [4, 1, 1]

    def sum(
        self, attention: Sequence[np.ndarray], product: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(seconds, half-width) of blocks from those of rows, errors partly shared."""
        seconds = self.total(attention[0], product[0])
        wrong = attention[0] * attention[1], product[0] * product[1]
        parts = np.column_stack(
            [wrong[0][self.attention], wrong[1][self.products] * [4, 1, 1]]
        )
        apart, together = (parts**2).sum(axis=1), parts.sum(axis=1) ** 2
        return seconds, np.sqrt((1 - ALIKE) * apart + ALIKE * together) / seconds


def closest(shapes: set[tuple[int, ...]], wanted: tuple[int, int]) -> tuple[int, ...]:
    """The nearest measured (n, k), or () where none is near."""
    far = {shape: np.abs(np.log(np.divide(shape, wanted))).sum() for shape in shapes}
    best = min(far, key=lambda shape: (far[shape], shape))
    return best if far[best] <= NEAR else ()


def blocks(gemm: Rows, attention: Rows) -> tuple[Blocks, set[tuple[int, ...]]]:
    """Every block that the rows hold, h from 256 to 4096, and the shapes it takes."""
    index = {sample.dims: i for i, sample in enumerate(gemm.samples)}
    used: set[tuple[int, ...]] = set()
    found, exact = [], 0
    for i, sample in enumerate(attention.samples):
        batch, new, _, heads, kv_heads, d = sample.dims
        h = heads * d
        if heads != kv_heads or d not in (64, 128) or not 256 <= h <= 4096:
            continue
        wanted = [(h, h), (4 * h, h), (h, 4 * h)]
        shapes = [closest(set(gemm.shapes), shape) for shape in wanted]
        parts = [index.get((batch * new, *shape)) for shape in shapes]
        if None not in parts:
            found.append((i, *parts))
            used.update(shapes)
            exact += shapes == wanted
    columns = np.array(found)
    return Blocks(columns[:, 0], columns[:, 1:], exact), used


def block_errors(
    gemm: Rows, attention: Rows, where: Device, count: int, repeats: int
) -> dict[str, list]:
    """Errors and coverage on all blocks; each repeat draws 70 % of the pool."""
    made, used = blocks(gemm, attention)
    usual = [shape not in used and layer_like(s.dims) for shape, s in gemm.pairs]
    pools = (
        np.flatnonzero(usual),
        np.flatnonzero([heads > kv for heads, kv, _ in attention.shapes]),
    )
    truth = made.total(attention.times, gemm.times)
    found: dict[str, list] = {name: [] for name in VARIANTS}
    for seed in range(repeats):
        draw = np.random.default_rng(seed)
        some = [np.sort(draw.choice(p, int(0.7 * len(p)), False)) for p in pools]
        product = predictions(gemm, some[0], count, where)
        attend = predictions(attention, some[1], count, where)
        for name in VARIANTS:
            seconds, half = made.sum(attend[name], product[name])
            off = np.log(seconds / truth)
            found[name].append(figures(seconds, truth) + covered(off, half))
    return found


def show(title: str, row: Sequence[float]) -> None:
    """One line of the report."""
    numbers = " / ".join(f"{number:5.1f}" for number in row[:3])
    rest = "   {:3.0f} % within +-{:.0f} %".format(*row[3:]) if row[3:] else ""
    sys.stdout.write(f"  {title:24s} {numbers}{rest}\n")
    sys.stdout.flush()


def report(counts: Sequence[int], found: Callable[[int], dict[str, list]]) -> None:
    """The table of one class: variants at each number of calibration points."""
    for count in counts:
        for name, repeats in found(count).items():
            show(f"{name}, {count} points", np.mean(repeats, axis=0).tolist())


def kernel_tables(
    data: dict[str, Rows], where: Device, counts: Sequence[int], repeats: int
) -> None:
    """The figures of every class of kernels on shapes that were held out."""
    for name, rows_ in data.items():
        sys.stdout.write(
            f"{name}: {len(rows_.times)} kernels, half the shapes held out\n"
        )
        for title, shares in EFFICIENCIES.items():
            show(title, figures(by_datasheet(rows_, where, shares), rows_.times))
        report(counts, lambda n, d=rows_: kernels(d, where, n, repeats))


def block_tables(
    gemms: dict[str, Rows],
    attention: Rows,
    where: Device,
    counts: Sequence[int],
    repeats: int,
) -> None:
    """The figures of transformer blocks for each precision of the products."""
    for name, data in gemms.items():
        made, _ = blocks(data, attention)
        truth = made.total(attention.times, data.times)
        sys.stdout.write(f"blocks {name}: {len(truth)}, {made.exact} of exact shapes\n")
        for title, shares in EFFICIENCIES.items():
            parts = [by_datasheet(d, where, shares) for d in (attention, data)]
            show(title, figures(made.total(*parts), truth))
        report(counts, lambda n, d=data: block_errors(d, attention, where, n, repeats))


def main() -> None:
    """Read the arguments, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, nargs="+", default=[24, 48, 96])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--device", default="h200")
    args = parser.parse_args()
    where = device(args.device)
    gemms = {PRECISIONS[d]: products(args.folder, d) for d in PRECISIONS}
    attend = {phase: attentions(args.folder, phase) for phase in ("prefill", "decode")}
    sys.stdout.write("median / mean / p90 of the absolute error in %\n")
    kernel_tables({**gemms, **attend}, where, args.points, args.repeats)
    block_tables(gemms, attend["prefill"], where, args.points, args.repeats)


if __name__ == "__main__":
    main()
