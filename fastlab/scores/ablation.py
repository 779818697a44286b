"""Does every term of the fit earn its place? Errors on samples left out of the fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress

import numpy as np

from fastlab.latency.devices import Device
from fastlab.latency.estimates import EFFICIENCIES
from fastlab.latency.fit import fit, usable
from fastlab.latency.profile import formula
from fastlab.latency.samples import Sample, work_of
from fastlab.scores.correction import Errors

VARIANTS = {
    "without overlap exponent (max)": "sharpness",
    "without overhead": "overhead_s",
    "without depth": "depth_s",
    "without rows": "row_s",
}


def ablations(
    samples: Sequence[Sample], device: Device, folds: int | None = None
) -> list[Errors]:
    """The fit with and without each term, scored on samples it did not see.

    Each sample by itself, or each of `folds` parts where the fit can spare them, is
    predicted by a fit of the others. Then the datasheet's roofline, typical
    efficiencies, and FLOPs / peak.
    ValueError as `fit`.
    """
    good, _ = usable(samples)
    times = np.array([sample.seconds for sample in good])
    whole, count = fit(good, device).parameters, len(good)
    if folds is None or count - math.ceil(count / folds) < len(whole):
        folds = count
    full, plain = _left_out(good, device, (), folds)
    found = {"full model": full, "without residual": plain}
    for name, term in VARIANTS.items():
        if term in whole:
            found[name] = _left_out(good, device, (term,), folds)[0]
    found |= _baselines(good, device)
    return [Errors.of(name, seconds, times) for name, seconds in found.items()]


def _left_out(
    samples: Sequence[Sample], device: Device, without: Sequence[str], folds: int
) -> np.ndarray:
    """[2, n] seconds by fits of the other parts: with the residual, and before it."""
    fold = np.arange(len(samples)) % folds
    seconds = np.empty((2, len(samples)))
    for number in np.unique(fold):
        mine = fold == number
        fitted = fit(compress(samples, ~mine), device, without)
        held = work_of(list(compress(samples, mine)))
        seconds[:, mine] = fitted.predict(held)[0], formula(fitted.parameters, held)
    return seconds


def _baselines(samples: Sequence[Sample], device: Device) -> dict[str, np.ndarray]:
    work, bandwidth = work_of(samples), device.bandwidth
    if not work.flops.any():
        return {"datasheet bandwidth": work.bytes / bandwidth}
    peak = device.product_rate(samples[0].precision)
    found = {
        name: formula({"peak": compute * peak, "bandwidth": moved * bandwidth}, work)
        for name, (compute, moved) in EFFICIENCIES.items()
    }
    return found | {"FLOPs / datasheet peak": work.flops / peak}
