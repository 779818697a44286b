"""Fit data/prior.json to public timings, which stay outside the repository.

    python -m benchmarks.fit_prior FOLDER [--out data/prior.json]

FOLDER holds the tables that public_timings.py reads. Of each class of operations
the shares of a datasheet's peak and bandwidth, the corner between them and the cycles
besides are fitted, once to all GPUs and once without each GPU and each architecture;
half an interval is what 90 % of the rows stay within, in each regime, on GPUs and
architectures left out, wider for those that are less like the others.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from benchmarks.public_timings import EVENTS_S, Kernels, Whole, read
from benchmarks.score_prior import LEFT_OUT, score_published
from benchmarks.score_prior import without as left_out_device
from fastlab.cost.operations import total
from fastlab.latency.devices import FILE as DEVICES
from fastlab.latency.devices import Device, datasheet_row
from fastlab.latency.estimates import estimate
from fastlab.latency.fit import LEVEL, NOISE, conformal
from fastlab.latency.prior import (
    FILE,
    group_of,
    levels,
    place,
    prior,
    rates,
    stored,
    widening,
)
from fastlab.latency.profile import formula, parts_of

START = {  # typical values, and the sd of their logs
    "compute": (0.75, 0.5),
    "memory": (0.8, 0.5),
    "sharpness": (1.0, 0.7),
    "cycles": (5000.0, 1.0),
    "depth_cycles": (0.5, 2.0),
    "split_cycles": (75.0, 1.0),
    "score_cycles": (0.1, 1.0),
    "row_cycles": (3000.0, 1.0),
    "alone_cycles": (10.0, 1.0),
    "cache": (10.0, 1.0),
}

COMPUTE_S = 0.01  # of a product that says what its card sustains
FEWEST = 20
APART = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)  # of a band, for each log unit
SCORED = ("", "vllm", "tensorrt-llm")  # engines with two GPUs or more
WIDE = math.log(2.0)  # half an interval of what no timing is known of
PRODUCT_KINDS = ("linear", "biased", "matmul")


@lru_cache
def device(gpu: str) -> Device:
    """The datasheet's row of a GPU, which has no prior; ValueError if there is none."""
    made = datasheet_row(gpu)
    if made is None:
        raise ValueError(f"{gpu} is not in data/devices.csv")
    return made


class Class(NamedTuple):
    """A class of data/prior.json: the tables it is fitted to, and by which numbers."""

    name: str
    tables: tuple[str, ...]
    precisions: tuple[str, ...]
    kinds: tuple[str, ...]
    numbers: tuple[str, ...]
    fixed: tuple[str, str] = ("", "")  # a number, and the class that it is taken from
    events: bool = False  # timed by events around one eager call


FORM = ("compute", "memory", "sharpness", "cycles")
PRODUCT = (*FORM, "split_cycles")
SERVED, EAGER = ("bf16", "fp16"), ("fp32",)
CLASSES = (
    Class("linear 16-bit", ("aic_gemm",), SERVED, ("linear",), PRODUCT),
    Class(
        *("linear fp8-dynamic", ("aic_gemm",), ("fp8-dynamic",), ("linear",)),
        (*PRODUCT, "row_cycles"),
    ),
    Class(
        *("prefill 16-bit", ("aic_attention_prefill",), SERVED, ("prefill",)),
        (*FORM, "depth_cycles", "row_cycles", "score_cycles"),
    ),
    Class(
        *("decode 16-bit", ("aic_attention_decode",), SERVED, ("decode",)),
        (*FORM, "row_cycles", "alone_cycles", "cache"),
        ("score_cycles", "prefill 16-bit"),
    ),
    Class(
        *("linear fp32", ("neusight_gemm",), EAGER, ("biased", "matmul")),
        *(FORM, ("cycles", "linear 16-bit"), True),
    ),
    Class(
        *("elementwise fp32", ("neusight_elementwise",), EAGER, ("elementwise",)),
        *(("memory", "cycles"), ("cycles", "linear 16-bit"), True),
    ),
    Class(
        *("norm fp32", ("neusight_elementwise",), EAGER, ("norm",)),
        *(("memory", "cycles"), ("cycles", "linear 16-bit"), True),
    ),
    Class(
        *("elementwise 16-bit", ("vidur_ops",), SERVED, ("elementwise",)),
        *(("memory", "cycles"), ("memory", "elementwise fp32")),
    ),
)
ARCHITECTURES = {  # by a word of the GPU's name
    **{"P4": "Pascal", "P100": "Pascal", "V100": "Volta", "T4": "Turing"},
    **{
        "A100": "Ampere",
        "A40": "Ampere",
        "A10": "Ampere",
        "3090": "Ampere",
        "H100": "Hopper",
        "H200": "Hopper",
    },
    **{
        "GH200": "Hopper",
        "L4": "Ada",
        "L40S": "Ada",
        "4090": "Ada",
        "PRO": "Blackwell RTX",
    },
    **dict.fromkeys(("B200", "B300", "GB200", "GB300"), "Blackwell"),
}
AGES = tuple(dict.fromkeys(ARCHITECTURES.values()))  # the oldest first


def architecture(gpu: str) -> str:
    """The architecture of a GPU by its name; the name where it is not known."""
    words = gpu.replace("-", " ").split()
    return next((ARCHITECTURES[w] for w in words if w in ARCHITECTURES), gpu)


def belongs(one: Kernels, made: Class) -> bool:
    """Whether a class is fitted to those kernels."""
    wanted = (made.tables, made.precisions, made.kinds)
    mine = (one.table, one.precision, one.kind)
    return all(value in values for value, values in zip(mine, wanted, strict=True))


def like(one: Kernels, made: Class) -> bool:
    """Whether a class estimates them, whoever timed them."""
    mine = one.precision in made.precisions and one.kind in made.kinds
    return mine and "odd" not in one.table


def fit(groups: Sequence[Kernels], made: Class, known: Mapping[str, Any]) -> dict:
    """The class's numbers on those groups; each architecture weighs the same.

    Where cycles are known from another class, what one timed call takes beside them
    is events and launch, of each GPU its own, and thrown away.
    """
    number, source = made.fixed
    fixed = {number: known[source][number]} if number else {}
    free = [name for name in made.numbers if name not in fixed]
    devices = [device(one.gpu) for one in groups]
    gpus = sorted({one.gpu for one in groups}) if made.events else []
    weight = _weights(groups)
    usual = np.log([START[name][0] for name in free] + [EVENTS_S for _ in gpus])
    sd = np.array([START[name][1] for name in free] + [0.3 for _ in gpus])
    logs = [np.log(one.seconds) for one in groups]

    def misfit(theta: np.ndarray) -> np.ndarray:
        numbers = fixed | dict(zip(free, np.exp(theta), strict=False))
        extra = dict(zip(gpus, np.exp(theta[len(free) :]), strict=True))
        off = [
            w * (np.log(seconds(numbers, one, on) + extra.get(one.gpu, 0.0)) - t)
            for w, one, on, t in zip(weight, groups, devices, logs, strict=True)
        ]
        return np.r_[np.concatenate(off) / NOISE, (theta - usual) / sd]

    best = np.exp(least_squares(misfit, usual, loss="soft_l1").x).tolist()
    found = fixed | dict(zip(free, best, strict=False))
    return found | {"events_s": dict(zip(gpus, best[len(free) :], strict=True))}


def seconds(numbers: Mapping[str, float], one: Kernels, on: Any) -> np.ndarray:
    """What those numbers say of the kernels."""
    return formula(rates(on, one.precision, numbers), one.seen(levels(on, numbers)))


def _weights(groups: Sequence[Kernels]) -> list[float]:
    """Of the rows of each group, so that architectures weigh alike."""
    count: dict[str, int] = {}
    for one in groups:
        name = architecture(one.gpu)
        count[name] = count.get(name, 0) + len(one.seconds)
    mean = sum(count.values()) / len(count)
    return [math.sqrt(mean / count[architecture(one.gpu)]) for one in groups]


def fits(kernels: Sequence[Kernels]) -> dict[str, dict]:
    """All classes that the kernels know, fitted."""
    found: dict[str, dict] = {}
    for made in CLASSES:
        groups = [one for one in kernels if belongs(one, made)]
        if groups and (not made.fixed[1] or made.fixed[1] in found):
            found[made.name] = fit(groups, made, found)
            found[made.name]["n"] = sum(len(one.seconds) for one in groups)
            near = {device(one.gpu): one.precision for one in groups}
            found[made.name]["gpus"] = {
                on.name: place(on, precision)
                for on, precision in sorted(near.items(), key=lambda own: own[0].name)
            }
    return found


def sustained(kernels: Sequence[Kernels], found: Mapping[str, dict]) -> dict[str, dict]:
    """Of each GPU, by precision, what its products reach of what the fits say.

    The median over those whose compute takes most, and COMPUTE_S at least.
    """
    ratios: dict[tuple[str, str], list[np.ndarray]] = {}
    for one in kernels:
        name = f"linear {group_of(one.precision)}"
        if one.kind in PRODUCT_KINDS and name in found and "odd" not in one.table:
            p = rates(device(one.gpu), one.precision, found[name])
            compute, memory, rest = parts_of(p, one.work)
            mine = compute > np.maximum(COMPUTE_S, 3 * (memory + rest))
            part = (formula(p, one.work) / one.seconds)[mine]
            key = device(one.gpu).name, group_of(one.precision)
            ratios.setdefault(key, []).append(part)
    shares: dict[str, dict] = {}
    for (gpu, group), parts in ratios.items():
        every = np.concatenate(parts)
        if len(every) >= FEWEST:
            shares.setdefault(gpu, {})[group] = float(np.median(every))
    return shares


def engine_costs(wholes: Sequence[Whole], found: Mapping[str, Any]) -> dict[str, dict]:
    """Of each serving engine, what a step, each sequence and shared heads take besides.

    again: of the time that cached rows take, what each further head of a group adds.
    """
    costs: dict[str, list[tuple[float, ...]]] = {}
    for one in wholes:
        if one.engine:
            made = *whole_seconds(one, found), again_seconds(one, found)
            costs.setdefault(one.engine, []).append((one.seconds, *made))
    return {name: _three_costs(*np.array(rows).T) for name, rows in costs.items()}


def again_seconds(one: Whole, found: Mapping[str, Any]) -> float:
    """What a call's cached rows take for all heads of a group but the first."""
    (on, point), n = (device(one.gpu), one.parts[-1][0]), one.parts[-1][1]
    shared = point.shape.heads / point.shape.kv_heads - 1
    rate = found["decode 16-bit"]["memory"] * on.bandwidth
    return n * shared * total(point, "kv_read_bytes") / rate


def host_costs(wholes: Sequence[Whole], found: Mapping[str, Any]) -> dict[str, float]:
    """Of each GPU, what its host takes for an eager launch, by its architecture.

    The median over calls that take twice as long as the GPU is busy. Hosts of GPUs
    older than those known are as the oldest known; of newer ones nothing is known.
    """
    known: dict[str, list[float]] = {}
    for one in wholes:
        if not one.engine:
            busy, *_ = whole_seconds(one, found)
            launches = operations_launched(one)
            if one.seconds > 2 * busy:
                times = known.setdefault(architecture(one.gpu), [])
                times.append(one.seconds / launches)
    costs: dict[str, float] = {}
    for gpu in names():
        place = (
            AGES.index(architecture(gpu)) if architecture(gpu) in AGES else len(AGES)
        )
        newer = [name for name in AGES[place:] if name in known]
        if newer:
            costs[gpu] = float(np.median(known[newer[0]]))
    return costs


def operations_launched(one: Whole) -> int:
    """Kernels that a call launches."""
    return sum(n * total(point, "launches") for point, n in one.parts)


def _three_costs(
    measured: np.ndarray,
    base: np.ndarray,
    steps: np.ndarray,
    batch: np.ndarray,
    again: np.ndarray,
) -> dict[str, float]:
    def misfit(theta: np.ndarray) -> np.ndarray:
        added = steps * (theta[0] + batch * theta[1]) * 1e-3 + again * theta[2]
        return np.log((base + added) / measured) / NOISE

    ends = (np.zeros(3), np.full(3, np.inf))
    best = least_squares(misfit, [0.1, 0.01, 0.1], bounds=ends, loss="soft_l1").x
    best = (best * [1e-3, 1e-3, 1.0]).tolist()
    return dict(zip(("step_s", "sequence_s", "again"), best, strict=True))


def whole_seconds(one: Whole, found: Mapping[str, Any]) -> tuple[float, int, int]:
    """A call's seconds by the fits alone, its forward passes, and its batch."""
    on = replace(device(one.gpu), launch_s=0.0)
    on = replace(on, fits=prior(on, {"fits": found, "hosts": {}}))
    times = [n for _, n in one.parts]
    made = estimate([point for point, _ in one.parts], on, "prior")
    whole = sum(n * e.seconds for n, e in zip(times, made, strict=True))
    return whole, sum(times), one.parts[0][0].workload.batch


class Missed(NamedTuple):
    """By how much fits without a GPU miss kernels of it; how unlike it is to others."""

    gpu: str
    off: np.ndarray  # log of measured / estimated
    regime: np.ndarray  # what takes longest: compute, memory, or the rest
    place: list[float]
    fit: Mapping[str, Any]

    def wider(self, apart: float) -> float:
        """By what their band is widened, where that grows so with the distance."""
        return widening(self.place, {**self.fit, "apart": apart})


def bands(
    kernels: Sequence[Kernels], without: Mapping[str, dict]
) -> dict[str, dict[str, Any]]:
    """Of each class: half an interval by regime, and by what it widens with distance.

    By the fits without each GPU, and without its architecture. The widening is that
    whose bands, made without each GPU in turn, score best on it.
    """
    found = {}
    for made in CLASSES:
        keys = [
            (one, key) for one in kernels for key in (one.gpu, architecture(one.gpu))
        ]
        missed = [
            _missed(one, without[key]["fits"][made.name])
            for one, key in keys
            if like(one, made) and made.name in without[key]["fits"]
        ]
        if missed:
            apart = min(APART, key=partial(_score, missed))
            found[made.name] = {"half": _halves(missed, apart), "apart": apart}
    return found


def _missed(one: Kernels, numbers: Mapping[str, Any]) -> Missed:
    on = device(one.gpu)
    p, seen = rates(on, one.precision, numbers), one.seen(levels(on, numbers))
    off = np.log(one.seconds / (formula(p, seen) + one.events_s))
    regime = parts_of(p, seen).argmax(axis=0)
    return Missed(one.gpu, off, regime, place(on, one.precision), numbers)


def _halves(missed: Sequence[Missed], apart: float) -> list[float]:
    """Half an interval where compute, memory or the rest is longest; of no distance."""
    scaled = np.concatenate([one.off / one.wider(apart) for one in missed])
    where = np.concatenate([one.regime for one in missed])
    parts = [scaled[where == i] for i in range(3)]
    return [conformal(e if len(e) >= FEWEST else scaled) for e in parts]


def _score(missed: Sequence[Missed], apart: float) -> float:
    """Winkler's score of the bands of GPUs that had no part in them; the mean of all.

    Width, and 2 / (1 - LEVEL) times what lies beyond (Gneiting and Raftery 2007, 6.2).
    """
    scores = []
    for gpu in {one.gpu for one in missed}:
        others = [one for one in missed if one.gpu != gpu]
        for one in missed if others else ():
            if one.gpu == gpu:
                half = np.array(_halves(others, apart))[one.regime] * one.wider(apart)
                beyond = np.maximum(np.abs(one.off) - half, 0)
                scores.append(float(np.mean(2 * half + 2 / (1 - LEVEL) * beyond)))
    return float(np.mean(scores)) if scores else apart


def widths(wholes: Sequence[Whole]) -> tuple[dict[str, float], dict[str, float]]:
    """What bands of calls must be to hold on GPUs, architectures left out; of engines.

    stretch: by what those of busy GPUs are widened, with engines no less than others;
    host_half: half of those of GPUs that wait for their host.
    """
    stretch: dict[str, list[float]] = {}
    waits = []
    for one, method in product(wholes, LEFT_OUT):
        on = left_out_device(one.gpu, method, not one.engine, one.engine)
        made = estimate([point for point, _ in one.parts], on, "prior")
        times = np.array([n for _, n in one.parts])
        said, high = (
            times @ [getattr(e, n) for e in made] for n in ("seconds", "high_s")
        )
        off = abs(math.log(one.seconds / said))
        if not one.engine and made[0].bound == "launch":
            waits.append(off)
        elif one.table != "bert_forward":
            ratios = stretch.setdefault(one.engine, [])
            ratios.append(off / math.log(high / said))
    every = conformal(np.concatenate([*map(np.array, stretch.values())]))
    own = {n: max(every, conformal(np.array(of))) for n, of in stretch.items() if n}
    return {"stretch": every, "host_half": conformal(np.array(waits))}, own


def with_widths(made: dict[str, Any], wholes: Sequence[Whole]) -> None:
    """The same, written to what is known of all, and of each engine."""
    both, own = widths(wholes)
    made |= both
    for one in (made, *made["without"].values()):
        for name in own.keys() & one["engines"].keys():
            one["engines"][name]["stretch"] = own[name]


def learnt(kernels: Sequence[Kernels], wholes: Sequence[Whole]) -> dict[str, Any]:
    """All that those timings say: fits, and costs of engines."""
    found = fits(kernels)
    for one in found.values():
        one["half"] = [WIDE] * 3  # until they are known
    found = derived(found)
    hosts, costs = host_costs(wholes, found), engine_costs(wholes, found)
    return {"fits": found, "hosts": hosts, "engines": costs}


def left_out(
    kernels: Sequence[Kernels], wholes: Sequence[Whole]
) -> dict[str, dict[str, Any]]:
    """What is learnt without each GPU, and without each architecture."""
    gpus = sorted({one.gpu for one in (*kernels, *wholes)})
    tests: dict[str, Callable[[str], bool]] = {
        gpu: lambda other, gpu=gpu: other != gpu for gpu in gpus
    }
    for name in sorted(set(map(architecture, gpus))):
        tests[name] = lambda other, name=name: architecture(other) != name
    return {
        name: learnt(
            [one for one in kernels if keeps(one.gpu)],
            [one for one in wholes if keeps(one.gpu)],
        )
        for name, keeps in tests.items()
    }


def rounded(value: Any) -> Any:
    """The same with five figures a number."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def derived(found: dict[str, dict]) -> dict[str, dict]:
    """Classes without timings of their own, from those most like them."""
    made = dict(found)

    def borrow(name: str, source: str, **over: float) -> None:
        one = {k: v for k, v in found[source].items() if k != "events_s"}
        one["half"] = [max(h, WIDE) for h in one["half"]]
        made[name] = one | over | {"from": source, "n": 0, "gpus": {}}

    for precision in ("tf32", "fp8", "int8", "int4-g128"):
        borrow(f"linear {precision}", "linear 16-bit")
    borrow("linear int8-dynamic", "linear fp8-dynamic")
    for kind in ("prefill", "decode"):
        for precision in ("fp32", "tf32"):
            borrow(f"{kind} {precision}", f"{kind} 16-bit")
    borrow("elementwise tf32", "elementwise fp32")
    for precision in ("fp32", "16-bit", "tf32"):
        source = made[f"linear {precision}"]
        numbers = {"compute": source["compute"], "sharpness": 1e-6}
        moves = f"elementwise {precision}"
        moves = moves if moves in found else "elementwise fp32"
        borrow(f"plain {precision}", moves, **numbers)
    return made


def names() -> list[str]:
    """All devices that data/devices.csv has."""
    with DEVICES.open(newline="") as file:
        return [row["name"] for row in csv.DictReader(file)]


def provenance(folder: Path) -> dict[str, dict[str, str]]:
    """Of each table its source and commit, as the folder's README says, and its sum."""
    found = {}
    for line in (folder / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        for path in folder.glob(f"{cells[0]}.csv*") if len(cells) > 4 else ():
            sha = hashlib.sha256(path.read_bytes()).hexdigest()
            found[cells[0]] = dict(zip(("source", "licence"), cells[3:5], strict=True))
            found[cells[0]]["sha256"] = sha[:16]
    return found


def with_bands(made: dict[str, Any], kernels: Sequence[Kernels]) -> None:
    """The bands of every class, written to what is known of all and without each."""
    for name, found in bands(kernels, made["without"]).items():
        for one in (made, *made["without"].values()):
            if name in one["fits"]:
                one["fits"][name] |= found
    for one in (made, *made["without"].values()):
        one["fits"] = derived(one["fits"])


def write(made: Mapping[str, Any]) -> None:
    """data/prior.json, read anew from then on."""
    text = json.dumps(rounded(dict(made)), indent=1)
    FILE.write_text(re.sub(r"\n {4,}|\n {3}(?=[\]}])", " ", text) + "\n")
    stored.cache_clear()
    left_out_device.cache_clear()


def main() -> None:
    """Read the folder, write the file, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    kernels, wholes = read(folder)
    made = {"provenance": provenance(folder)} | learnt(kernels, wholes)
    made["shares"] = sustained(kernels, made["fits"])
    made["architectures"] = {name: architecture(name) for name in names()}
    made["without"] = left_out(kernels, wholes)
    with_bands(made, kernels)
    write(made)
    with_widths(made, [one for one in wholes if one.engine in SCORED])
    write(made)
    write(made | {"scores": score_published(kernels, wholes)})
    for name, numbers in made["fits"].items():
        print(name, rounded(numbers))
    print(
        *(
            rounded(made[name])
            for name in ("shares", "hosts", "engines", "stretch", "host_half")
        )
    )
    for row in stored()["scores"]:
        if row["of"] == "all":
            print(row)


if __name__ == "__main__":
    main()
