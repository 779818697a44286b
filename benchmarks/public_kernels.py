"""Score the latency model on public kernel timings, which stay outside the repository.

    python benchmarks/public_kernels.py FOLDER [--points 24 48 96] [--repeats 4]

FOLDER holds *gemm*.csv, *attention_prefill*.csv and *attention_decode*.csv (or .gz)
with the columns dtype, m, n, k | batch, new, past, heads, kv_heads, head_dim, and
latency_ms, or ms_NAME for each of several runtimes (--runtime says which counts: by
default the fastest). The column gpu names the device, otherwise --device. Printed, of
each GPU: median / mean / p90 of the absolute error in %, on shapes that the fit has not
seen, and on transformer blocks (4 h x h, h -> 4h and 4h -> h products and causal
attention, each the nearest that was measured) calibrated only on shapes that no block
has, of the sizes that `fastlab calibrate` takes, and on grouped-query attention.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastlab.cost import ops
from fastlab.latency.calibrated import ALIKE, alike
from fastlab.latency.devices import Device, device
from fastlab.latency.estimates import EFFICIENCIES
from fastlab.latency.fit import fit
from fastlab.latency.profile import formula
from fastlab.latency.samples import Sample, Work, work_of
from fastlab.scores.correction import Errors

PRECISIONS = {"bf16": "bf16", "fp8": "fp8-dynamic"}
# What other files call the same.
NAMES = {"batch_size": "batch", "num_heads": "heads", "seq_len": "new"}
NAMES |= {"num_key_value_heads": "kv_heads", "kv_len": "past"}
CALLS = {"batch": 1, "new": 1, "past": 0}  # of attention, and what is not said
# Of GPUs that data/devices.csv lacks: dense bf16 and fp8 in TFLOP/s, GB/s, L2 in MiB.
SHEETS = {
    "NVIDIA GB200": (2500, 5000, 8000, 126),
    "NVIDIA RTX PRO 6000 Blackwell Server": (480, 960, 1597, 128),
}
VARIANTS = {"fitted": (), "no residual": ("residual",)}
# Of the products that `fastlab calibrate` times: outputs for each input (or the
# reverse), sizes and rows. Blocks reach four times as many rows.
WIDEST, SIZES, MOST_ROWS = 8, (256, 16384), 8192
NEAR = 0.7  # log distance within which a measured product stands in for a block's own


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


def lines(folder: Path, name: str, runtime: str = "") -> dict[str, list[dict]]:
    """The rows of the CSV named *`name`*, by GPU, with `seconds` and one set of names.

    runtime: whose time counts where there are several; "" takes the fastest. Rows
    without a time are left out. FileNotFoundError where there is no such CSV.
    """
    paths = sorted(folder.glob(f"*{name}*.csv*"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no *{name}*.csv or *{name}*.csv.gz")
    opened = gzip.open if paths[0].suffix == ".gz" else open
    found: dict[str, list[dict]] = {}
    with opened(paths[0], "rt", newline="") as file:
        for row in csv.DictReader(file):
            row = {NAMES.get(column, column): value for column, value in row.items()}
            known = (f"ms_{runtime}",) if runtime else [c for c in row if "ms" in c]
            times = [float(row[c]) for c in known if row.get(c)]
            if times:
                row["seconds"] = min(times) / 1e3
                found.setdefault(row.get("gpu", ""), []).append(row)
    return found


def sheet(name: str) -> Device:
    """The datasheet of a GPU; ValueError where devices.csv and SHEETS lack it."""
    if name not in SHEETS:
        return device(name)
    bf16, fp8, bandwidth, l2 = SHEETS[name]
    peaks = {"fp32": bf16 / 20, "bf16": bf16, "fp8": fp8}
    return replace(
        device("b200"),
        name=name,
        peak_flops={precision: 1e12 * rate for precision, rate in peaks.items()},
        bandwidth=1e9 * bandwidth,
        l2_bytes=l2 * 2**20,
    )


def rows(samples: list[Sample], shapes: list[tuple[int, ...]]) -> Rows:
    """Samples with the columns that fits read."""
    times = np.array([sample.seconds for sample in samples])
    return Rows(samples, shapes, work_of(samples), times)


def products(table: list[dict], dtype: str) -> Rows:
    """The matrix products of one dtype; inputs of 2 or 1 bytes, outputs of 2."""
    found, shapes, precision = [], [], PRECISIONS[dtype]
    size = 1 if precision == "fp8-dynamic" else 2
    for line in table:
        if line["dtype"].replace("bfloat", "bf") == dtype:
            m, n, k = (int(line[name]) for name in "mnk")
            op = ops.linear("gemm", (m, n, k), size)
            op = op._replace(activation_bytes=size * m * k + 2 * m * n)
            found.append(Sample.of(op, line["seconds"], precision))
            shapes.append((n, k))
    return rows(found, shapes)


def attentions(table: list[dict]) -> Rows:
    """The attention kernels of one phase, in bf16."""
    found, shapes = [], []
    for line in table:
        layout = tuple(int(line[name]) for name in ("heads", "kv_heads", "head_dim"))
        calls = (int(line.get(name, default)) for name, default in CALLS.items())
        op = ops.attention("attention", (*calls, *layout), 2)
        found.append(Sample.of(op, line["seconds"], "bf16"))
        shapes.append(layout)
    return rows(found, shapes)


def layer_like(dims: Sequence[int]) -> bool:
    """Whether a layer has such a product (m, n, k): neither very flat nor very deep."""
    rows, *sizes = dims
    usual = SIZES[0] <= min(sizes) and max(sizes) <= min(SIZES[1], WIDEST * min(sizes))
    return usual and rows <= MOST_ROWS


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
        self,
        attention: Sequence[np.ndarray],
        product: Sequence[np.ndarray],
        shared: float = ALIKE,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(seconds, half-width) of blocks from those of rows; shared: of products."""
        seconds = self.total(attention[0], product[0])
        wrong = attention[0] * attention[1], product[0] * product[1]
        parts = np.column_stack(
            [wrong[0][self.attention], wrong[1][self.products] * [4, 1, 1]]
        )
        common = np.array([ALIKE, shared, shared, shared])
        apart = ((1 - common) * parts**2).sum(axis=1)
        together = (np.sqrt(common) * parts).sum(axis=1) ** 2
        return seconds, np.sqrt(apart + together) / seconds


def blocks(gemm: Rows, attention: Rows) -> tuple[Blocks, set[tuple[int, ...]]]:
    """Every block that the rows hold, h from 256 to 4096, and the shapes it takes.

    The nearest measured product stands in for one that was not, if it is near.
    """
    places = gemm.work.places
    used: set[tuple[int, ...]] = set()
    found, exact = [], 0
    for i, sample in enumerate(attention.samples):
        batch, new, _, heads, kv_heads, d = sample.dims
        h = heads * d
        if heads != kv_heads or d not in (64, 128) or not 256 <= h <= 4096:
            continue
        wanted = np.log([(batch * new, *shape) for shape in products_of(h)])
        far = np.abs(places[None] - wanted[:, None]).sum(axis=2)
        if far.min(axis=1).max() <= NEAR:
            parts = far.argmin(axis=1)
            found.append((i, *parts))
            used.update(gemm.shapes[part] for part in parts)
            exact += far.min(axis=1).max() < 1e-9
    columns = np.array(found)
    return Blocks(columns[:, 0], columns[:, 1:], exact), used


def products_of(h: int) -> tuple[tuple[int, int], ...]:
    """(n, k) of a block's products: h x h, h -> 4h and 4h -> h."""
    return (h, h), (4 * h, h), (h, 4 * h)


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
            both = attend[name], product[name]
            seconds, half = made.sum(*both, alike(gemm.precision))
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
    parser.add_argument("--runtime", default="", help="whose times [the fastest]")
    args = parser.parse_args()
    names = "gemm", "attention_prefill", "attention_decode"
    gemm, *attend = (lines(args.folder, name, args.runtime) for name in names)
    sys.stdout.write("median / mean / p90 of the absolute error in %\n")
    for gpu in gemm:
        where = sheet(gpu or args.device)
        dtypes = {line["dtype"].replace("bfloat", "bf") for line in gemm[gpu]}
        gemms = {PRECISIONS[d]: products(gemm[gpu], d) for d in sorted(dtypes)}
        prefill, decode = (attentions(table[gpu]) for table in attend)
        sys.stdout.write(f"\n{where.name}\n")
        both = {**gemms, "prefill": prefill, "decode": decode}
        kernel_tables(both, where, args.points, args.repeats)
        block_tables(gemms, prefill, where, args.points, args.repeats)


if __name__ == "__main__":
    main()
