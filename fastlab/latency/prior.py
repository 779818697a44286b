"""What public measurements of other GPUs say of one that nobody measured here.

data/prior.json, which benchmarks/fit_prior.py fits, holds for each class of operations
the shares of a datasheet's peak and bandwidth that kernels reach, how sharply one gives
way to the other, and what they take besides in cycles of the clock: to begin and end,
and for what they do one after the other; and in cycles of one multiprocessor, of which
all work at once: for each block of work, and each score's exp. With a datasheet's row
that makes a Profile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlab.latency.profile import ClassFit, Profile
from fastlab.latency.samples import QUANTIZER_BYTES
from fastlab.spec.checks import check_choice, digest
from fastlab.spec.formats import DENSE, FORMATS
from fastlab.spec.point import Point

if TYPE_CHECKING:
    from fastlab.latency.devices import Device

FILE = Path(__file__).resolve().parents[2] / "data" / "prior.json"
BEYOND = 1.25  # of a cache: reading so much of it again gains nothing any more
CLOCK_HZ, SMS = 1.8e9, 100  # of a GPU whose own are unknown
KINDS = ("linear", "prefill", "decode", "plain", "elementwise", "norm")
CYCLES = {"cycles": "overhead_s", "depth_cycles": "depth_s", "split_cycles": "split_s"}
# Of one multiprocessor:
SHARED = {"row_cycles": "row_s", "score_cycles": "score_s", "alone_cycles": "alone_s"}
# What a precision's products are fitted with; attention and the rest by the dense one.
GROUPS = {"fp16": "16-bit", "bf16": "16-bit"}


@lru_cache
def stored() -> dict[str, Any]:
    """All of data/prior.json; FileNotFoundError as for the datasheets."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    parts = {name: found[name] for name in ("fits", "shares", "hosts", "engines")}
    found["stamp"] = digest(parts)[:8]
    return found


def prior(
    sheet: Device, learnt: Mapping[str, Any] | None = None, shared: bool = True
) -> Profile | None:
    """The profile of a GPU by its datasheet; None for what CUDA does not run on.

    learnt: what is known, instead of all of data/prior.json; shared: with this card's
    own shares of its peak. Eager launches are as slow as hosts of its time.
    """
    if sheet.kind != "cuda":
        return None
    known = learnt or stored()
    shares = known.get("shares", {}).get(sheet.name, {}) if shared else {}
    near = levels(sheet, known["fits"].get("decode 16-bit", {}))
    return Profile(
        tuple(_class_fits(sheet, known["fits"], shares)),
        dispatch_s=known["hosts"].get(sheet.name, sheet.launch_s),
        replay_s=sheet.launch_s,
        compiled_s=sheet.launch_s,
        levels=dict.fromkeys(DENSE, near) if near else {},
        stretch=known.get("stretch", 1.0),
        host_half=known.get("host_half", 0.0),
    )


def levels(on: Device, known: Mapping[str, float]) -> tuple[tuple[float, float], ...]:
    """How much longer than from memory a byte takes that the cache holds: Profile's.

    Its rate goes by the multiprocessors: known["cache"] bytes a cycle for each of them.
    """
    if "cache" not in known or not on.l2_bytes:
        return ()
    rate = known["cache"] * cycles_of(on)[1]
    gain = min(1.0, known["memory"] * on.bandwidth / rate)
    return (on.l2_bytes, gain), (BEYOND * on.l2_bytes, 1.0)


def cycles_of(on: Device) -> tuple[float, float]:
    """Cycles a second of the GPU's clock, and of all its multiprocessors together."""
    clock = on.clock_hz or CLOCK_HZ
    return clock, clock * (on.sms or SMS)


def place(on: Device, precision: str) -> list[float]:
    """Where a GPU stands among others: logs of what it does, and moves, in a cycle."""
    rates = on.product_rate(precision), on.bandwidth
    return [math.log(rate / cycles_of(on)[1]) for rate in rates]


def widening(own: Sequence[float], known: Mapping[str, Any]) -> float:
    """By what a band widens for a GPU as unlike those that were fitted to: a factor.

    It grows with the distance from the most alike of them, as known["apart"] says.
    """
    others = np.array([*known["gpus"].values()])
    if not len(others):
        return 1.0
    nearest = np.abs(others - np.array(own)).max(axis=1).min()
    return 1.0 + known.get("apart", 0.0) * float(nearest)


def timed(name: str) -> bool:
    """Whether public timings of this very GPU are among those that were fitted to."""
    return any(name in one["gpus"] for one in stored()["fits"].values())


def group_of(precision: str) -> str:
    """Which precisions' products a precision's are fitted with."""
    return GROUPS.get(precision, precision)


def _class_fits(
    sheet: Device, fits: Mapping[str, Any], shares: Mapping[str, float]
) -> Iterator[ClassFit]:
    for precision, form in FORMATS.items():
        if form.autocast or sheet.lacks(precision):
            continue
        for kind in KINDS:
            known = fits.get(f"{kind} {group_of(precision)}")
            if known:
                group = group_of(precision) if "compute" in known else ""
                wider = widening(place(sheet, precision), known)
                half = [wider * one for one in known["half"]]
                found = rates(sheet, precision, known, shares.get(group, 1.0))
                made = kind, precision, sheet.name, found, None, max(half)
                yield ClassFit(*made, (), (), known["n"], regimes=tuple(half))


def rates(
    sheet: Device, precision: str, known: Mapping[str, float], share: float = 1.0
) -> dict[str, float]:
    """The formula's parameters from shares and cycles; share: of this card's peak."""
    found = {"bandwidth": known["memory"] * sheet.bandwidth}
    if "compute" in known:
        found["peak"] = known["compute"] * share * sheet.product_rate(precision)
        found["sharpness"] = known["sharpness"]
    if FORMATS[precision].dynamic:
        found["value_s"] = QUANTIZER_BYTES / found["bandwidth"]
    for rate, names in zip(cycles_of(sheet), (CYCLES, SHARED), strict=True):
        found |= {to: known[of] / rate for of, to in names.items() if of in known}
    return found


def as_served(point: Point) -> Point:
    """The point as a serving engine runs it: compiled, its steps replayed."""
    if not point.shape.causal:
        return point
    runtime = "compile" if point.workload.phase == "prefill" else "graph"
    recipe = replace(point.recipe, cache="static", runtime=runtime)
    return replace(point, recipe=recipe)


def with_engine(
    profile: Profile, engine: str, engines: Mapping[str, Any] | None = None
) -> Profile:
    """The profile with what a serving engine adds; ValueError for an unknown one.

    engines: what is known of them, instead of all of data/prior.json.
    """
    known = engines or stored()["engines"]
    check_choice("engine", engine, known)
    costs, decode = dict(known[engine]), profile.find("decode", "fp16")
    rate = decode.parameters["bandwidth"] if decode else math.inf
    return replace(profile, again_s=costs.pop("again", 0.0) / rate, **costs)
