"""Two to nine fitted numbers per precision and class, and what they leave over.

t = ((flops / peak)^p + (bytes / bandwidth)^p)^(1/p)
    + launches x overhead + depth x depth_s + rows x (row_s + depth x value_s),
fitted to log t by robust least squares with weak priors, times exp(residual). depth is
what one result must wait for, however wide the device: the k of a product, keys x
head_dim of attention. rows cost extra only where inputs are quantized row by row, their
values too on a GPU, whose decode steps take each sequence's head of keys as a row.
On a GPU whose L2 is known, what fits a cache is moved at a bandwidth of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fastlab.cost.classes import CLASSES
from fastlab.latency.devices import Device
from fastlab.latency.profile import ClassFit, formula
from fastlab.latency.residual import Residual, residual
from fastlab.latency.samples import (
    QUANTIZER_BYTES,
    Sample,
    Work,
    class_of,
    with_steps,
    work_of,
)
from fastlab.spec.formats import FORMATS

LEVEL = 0.9  # share of operations that should lie within their interval
NOISE = 0.1  # log error below which the fit trusts a point fully

# (typical value, sd of its log), bandwidths and cache_bytes as a share of the device's;
# what differs by class is in CLASSES.
PRIORS = {
    "bandwidth": (0.8, 0.5),
    "overhead_s": (5e-6, 1.5),
    "sharpness": (1.0, 0.7),  # p - 1
    "row_s": (1e-9, 2.0),
    "cache_bandwidth": (2.5, 0.5),
    "cache_bytes": (0.4, 1.0),  # a benchmark that repeats itself holds more of its own
}
CACHE_FROM = 12  # samples from which a cache is looked for
CACHE_PAYS = 0.97  # and taken, if points left out are missed by so much less with it
DEPTH_SD, VALUE_SD = 2.0, 0.7
# FLOPs that a GPU's fp32 lanes could do while a decode step takes a sequence's head of
# keys, and a score: about data/prior.json's cycles.
LANES, LANES_SD = {"row_s": 7e5, "score_s": 30.0}, 1.0
ALIKE = ("row_s", "score_s", "value_s")  # of GPUs: their priors suffice


def fit(
    samples: Iterable[Sample], device: Device, without: Sequence[str] = ()
) -> ClassFit:
    """Fit one class of operations at one precision; `without` drops terms by name.

    Samples with a NaN or non-positive time are skipped and listed. ValueError where
    classes, precisions or devices are mixed, or points fewer than parameters; those
    that GPUs are known to have alike (ALIKE) need none of their own.
    """
    good, skipped = usable(samples)
    kind, precision = _only("class", map(class_of, good)), good[0].precision
    _only("precision", (sample.precision for sample in good))
    if _only("device", (sample.device for sample in good)) not in ("", device.name):
        raise ValueError(f"samples of {good[0].device} do not fit {device.name}")
    priors = {k: v for k, v in _priors(kind, good, device).items() if k not in without}
    known = ALIKE if device.kind != "cpu" else ()
    asked = [name for name in priors if name not in known]
    if len(good) < len(asked):
        raise ValueError(
            f"{kind} {precision}: {len(good)} usable samples for {len(asked)} "
            f"parameters ({', '.join(asked)})" + _listed(skipped)
        )
    work = work_of(good)
    # Movers of bytes have one dimension, which the bandwidth explains: a residual there
    # made 9 of 12 fits worse on points left out (the ablations of notebook 04).
    sized = CLASSES[kind].form != "bytes" and "residual" not in without
    places = with_steps(work) if "value_s" in priors else work.places
    columns = work, np.log([s.seconds for s in good]), places if sized else None
    found, rest, scores, missed = _fitted(priors, *columns)
    caches = {k: v for k, v in _caches(device).items() if k not in without}
    if CLASSES[kind].form != "bytes" and caches and len(good) >= CACHE_FROM:
        other = _fitted(priors | caches, *columns)
        if other[3] < CACHE_PAYS * missed:
            found, rest, scores, missed = other
    low, high = (tuple(end(work.places, axis=0).tolist()) for end in (np.min, np.max))
    made = kind, precision, device.name, found, rest, conformal(scores), low, high
    return ClassFit(*made, len(good), tuple(skipped))


def _fitted(
    priors: Mapping[str, tuple[float, float]],
    work: Work,
    log_times: np.ndarray,
    places: np.ndarray | None,
) -> tuple[dict[str, float], Residual | None, np.ndarray, float]:
    """Parameters, residual, scores for the interval; by how much points are missed.

    Each point is predicted from the others, where there is a residual to do so.
    """
    found = _least_squares(priors, work, log_times)
    left, sd = log_times - np.log(formula(found, work)), np.ones(len(log_times))
    rest = None if places is None else residual(places, left)
    if rest is not None:
        left, sd = rest.left_out()
    missed = float(np.median(np.abs(left)) + np.mean(np.abs(left)))
    return found, rest, left / sd, missed


def usable(samples: Iterable[Sample]) -> tuple[list[Sample], list[str]]:
    """The samples a fit can use, and why not the others; ValueError if none is."""
    faults = [(sample, sample.fault()) for sample in samples]
    skipped = [f"{s.kind} {s.dims}: {fault}" for s, fault in faults if fault]
    good = [sample for sample, fault in faults if not fault]
    if not good:
        raise ValueError("no usable sample" + _listed(skipped))
    return good, skipped


def _listed(skipped: Sequence[str]) -> str:
    return f"; skipped {'; '.join(skipped[:3])}" if skipped else ""


def _only(name: str, values: Iterable[str]) -> str:
    found = sorted(set(values))
    if len(found) > 1:
        raise ValueError(f"samples of more than one {name}: {', '.join(found)}")
    return found[0]


def _priors(
    kind: str, samples: Sequence[Sample], device: Device
) -> dict[str, tuple[float, float]]:
    # In the units of the parameters: a share of the peak becomes FLOP/s.
    known, precision = CLASSES[kind], samples[0].precision
    share, sd = PRIORS["bandwidth"]
    found = {"bandwidth": (share * device.bandwidth, sd)}
    found |= {"overhead_s": PRIORS["overhead_s"]}
    if any(sample.flops for sample in samples):
        share, sd = known.peak
        found["peak"] = (share * device.product_rate(precision), sd)
        found["sharpness"] = PRIORS["sharpness"]
    if known.depth_s:
        found["depth_s"] = (known.depth_s, DEPTH_SD)
    on_gpu = device.kind != "cpu"
    if known.form == "product" and FORMATS[precision].dynamic:
        found["row_s"] = PRIORS["row_s"]
        if on_gpu:
            found["value_s"] = (QUANTIZER_BYTES / device.bandwidth, VALUE_SD)
    if kind == "decode" and on_gpu and device.can("fp32"):
        lanes = device.product_rate("fp32")
        found |= {name: (n / lanes, LANES_SD) for name, n in LANES.items()}
    return found


def _caches(device: Device) -> dict[str, tuple[float, float]]:
    """The priors of a cache level; none on a CPU, whose levels are in its Profile."""
    if device.kind == "cpu" or not device.l2_bytes:
        return {}
    rates = {"cache_bandwidth": device.bandwidth, "cache_bytes": device.l2_bytes}
    return {
        name: (PRIORS[name][0] * rate, PRIORS[name][1]) for name, rate in rates.items()
    }


def _least_squares(
    priors: Mapping[str, tuple[float, float]], work: Work, log_times: np.ndarray
) -> dict[str, float]:
    from scipy.optimize import least_squares  # 0.2 s, and only fits need it

    usual = np.log([value for value, _ in priors.values()])
    sd = np.array([sd for _, sd in priors.values()])

    def misfit(theta: np.ndarray) -> np.ndarray:
        named = dict(zip(priors, np.exp(theta), strict=True))
        error = np.log(formula(named, work)) - log_times
        return np.r_[error / NOISE, (theta - usual) / sd]

    best = np.exp(least_squares(misfit, usual, loss="soft_l1").x)
    return dict(zip(priors, best.tolist(), strict=True))


def conformal(scores: np.ndarray) -> float:
    """The |score| that LEVEL of new points stay below, if they are like these."""
    rank = math.ceil(LEVEL * (len(scores) + 1))
    return float(np.sort(np.abs(scores))[min(rank, len(scores)) - 1])
