"""Profile and its fits: what a calibration found, kept in the device's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastlab.cost.classes import CLASSES
from fastlab.latency.residual import Residual
from fastlab.latency.samples import Work, with_steps
from fastlab.spec.checks import check_names, check_number
from fastlab.spec.formats import DENSE, FORMATS, calibrated_alike

EDGE = 0.02  # log units beyond the calibrated range that are not yet extrapolation
CACHE_EDGE = 4  # how sharply a cache ends


@dataclass(frozen=True)
class ClassFit:
    """The fitted model of one class of operations at one precision on one device.

    parameters: peak in FLOP/s, bandwidth and cache_bandwidth in bytes/s, cache_bytes,
    sharpness = p - 1, the rest in seconds. width = half an interval in standard
    deviations of the residual. regimes: halves of their own where compute, memory or
    everything else takes longest.
    """

    kind: str
    precision: str
    device: str
    parameters: Mapping[str, float]
    residual: Residual | None
    width: float
    low: tuple[float, ...]  # the calibrated range, in log space; () = anywhere
    high: tuple[float, ...]
    count: int  # samples it was fitted to
    skipped: tuple[str, ...] = ()
    regimes: tuple[float, ...] = ()

    def predict(self, work: Work) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of each operation, and half of its interval in log units."""
        seconds = formula(self.parameters, work)
        if self.regimes:
            longest = parts_of(self.parameters, work).argmax(axis=0)
            return seconds, np.array(self.regimes)[longest]
        if self.residual is None:
            return seconds, np.full(len(seconds), self.width)
        steps = len(self.residual.reach) > work.places.shape[1]
        log_factor, sd = self.residual.at(with_steps(work) if steps else work.places)
        return seconds * np.exp(log_factor), self.width * sd

    def outside(self, work: Work) -> np.ndarray:
        """Which operations lie beyond the calibrated range in any dimension."""
        if not self.low:
            return np.zeros(len(work.places), bool)
        below = work.places < np.array(self.low) - EDGE
        above = work.places > np.array(self.high) + EDGE
        return np.any(below | above, axis=1)


def parts_of(p: Mapping[str, float], work: Work) -> np.ndarray:
    """[3, n] seconds that compute, memory and everything else take by themselves.

    A GPU's attention: its matrix products, in whole tiles, while other units take score
    after score, whatever the head_dim; the slower of the two counts.
    """
    compute = work.flops / p["peak"] if "peak" in p else np.zeros(len(work.flops))
    if "score_s" in p:
        compute = np.maximum(work.tiled / p["peak"], work.scores * p["score_s"])
    each = p.get("row_s", 0.0) + work.depth * p.get("value_s", 0.0)
    rest = work.launches * p.get("overhead_s", 0.0) + work.rows * each
    rest = rest + work.depth * p.get("depth_s", 0.0)
    rest = rest + np.sqrt(work.depth) * p.get("split_s", 0.0)
    rest = rest + work.alone * p.get("alone_s", 0.0)
    return np.stack([compute, memory_seconds(p, work.bytes), rest])


def memory_seconds(p: Mapping[str, float], moved: np.ndarray) -> np.ndarray:
    """[n] seconds that moving so many bytes takes by itself.

    With a cache_bandwidth, what fits in cache_bytes comes at that rate. The share of
    the others grows smoothly, from 1/17 at half of cache_bytes to 16/17 at twice.
    """
    seconds: np.ndarray = moved / p["bandwidth"]
    if "cache_bandwidth" not in p:
        return seconds
    share = 1 / (1 + (p["cache_bytes"] / moved) ** CACHE_EDGE)
    return share * seconds + (1 - share) * moved / p["cache_bandwidth"]


def formula(p: Mapping[str, float], work: Work) -> np.ndarray:
    """Seconds without the residual; without a sharpness, max(compute, memory)."""
    compute, memory, rest = parts_of(p, work)
    longer = np.maximum(compute, memory)
    if "sharpness" not in p:
        return longer + rest
    power = 1 + p["sharpness"]
    ratio = np.minimum(compute, memory) / longer
    return longer * (1 + ratio**power) ** (1 / power) + rest


def way_of(precision: str, compiled: bool) -> str:
    """How calls run that have a factor of their own in common."""
    return f"{precision} compiled" if compiled else precision


@dataclass(frozen=True)
class Profile:
    """Fits per (class, precision), host seconds per launch, and where they come from.

    dispatch_s: of one operation launched eagerly, host_s: the same by model family,
    compiled_s: of one in compiled code, call_s: of one call of such code beside its
    launches, replay_s: of one whole CUDA graph. levels: by
    precision, how much longer than in the microbenchmarks a byte takes when so many
    bytes are gone through again and again (from which level of a CPU's caches they
    come). whole: by way of running (`way_of`), what calls take beyond the sum of their
    operations, each timed alone; stretch: what their intervals are widened by, as those
    that the calibration timed need it. step_s, sequence_s: what a serving engine adds
    to each forward pass, and to each sequence of it; again_s: to a byte of the cache,
    for each further head that reads it for itself. host_half: half an interval, in log
    units, of calls that wait for the host.
    provenance: free text by name (versions, date, seconds and points it took).
    """

    fits: tuple[ClassFit, ...]
    dispatch_s: float = 0.0
    replay_s: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    host_s: Mapping[str, float] = field(default_factory=dict)
    levels: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    stretch: float = 1.0
    whole: Mapping[str, float] = field(default_factory=dict)
    compiled_s: float = 0.0
    call_s: float = 0.0
    step_s: float = 0.0
    sequence_s: float = 0.0
    again_s: float = 0.0
    host_half: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.whole, Mapping):
            raise ValueError(f"whole={self.whole!r} must name a factor by way")
        ways = [way_of(name, how) for how in (False, True) for name in FORMATS]
        check_names("whole", self.whole, ways)
        for way, factor in self.whole.items():
            check_number(f"whole[{way!r}]", factor, zero=True)
        for name in ("dispatch_s", "replay_s", "compiled_s", "call_s", "stretch"):
            check_number(name, getattr(self, name), zero=True)
        seen = [(one.kind, one.precision) for one in self.fits]
        if twice := sorted({pair for pair in seen if seen.count(pair) > 1}):
            raise ValueError(f"more than one fit of {' '.join(twice[0])}")

    def find(self, kind: str, precision: str) -> ClassFit | None:
        """The fit for a class of operations at a precision, None where there is none.

        Elementwise operations stand in for norms, copies, embeddings and GELUs, plain
        products for those with a bias, a transposed weight or 2:4 weights, int4 groups
        for others; a look-up is one of whole numbers, whatever values it finds.
        """
        known = {(one.kind, one.precision): one for one in self.fits}
        names = calibrated_alike(precision)
        if CLASSES[kind].form == "look-up" and precision in DENSE:
            names += DENSE
        pairs = [(k, p) for k in (kind, CLASSES[kind].like) for p in names]
        return next((known[pair] for pair in pairs if pair in known), None)

    def holds(self, precision: str) -> bool:
        """Whether matrix products of a recipe's precision were calibrated."""
        product = FORMATS[precision].autocast or precision
        return self.find("linear", product) is not None

    def host(self, family: str) -> float:
        """Host seconds per launch of a family's eager code."""
        return self.host_s.get(family, self.dispatch_s)

    def call_overhead_factor(self, precision: str, compiled: bool = False) -> float:
        """What a call takes beyond the sum of its operations: a factor.

        Where a precision was not timed, that of the dense one around it serves.
        """
        made = FORMATS[precision]
        names = (*calibrated_alike(precision), made.autocast or made.dense)
        ways = [way_of(name, compiled) for name in names]
        return next((self.whole[way] for way in ways if way in self.whole), 1.0)

    def slowdown(self, precision: str, footprint: Any) -> Any:
        """How much longer a byte takes where `footprint` bytes are gone through again.

        Of an array of footprints an array.
        """
        levels = self.levels.get(precision)
        if not levels:
            return 1.0
        sizes, factors = zip(*levels, strict=True)
        return np.interp(np.log(footprint), np.log(sizes), factors)

    @property
    def serves(self) -> bool:
        """Whether it is that of a serving engine."""
        return self.step_s > 0 or self.sequence_s > 0

    @property
    def count(self) -> int:
        """Calibration points of all fits."""
        return sum(one.count for one in self.fits)

    @property
    def seconds(self) -> float:
        """How long the calibration took, as its provenance says; 0 if it does not."""
        return float(self.provenance.get("seconds", 0.0))
