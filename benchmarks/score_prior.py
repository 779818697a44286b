"""How far off is the prior on public timings that nothing of it was fitted to?

    python -m benchmarks.score_prior FOLDER      scores as JSON, one list of rows

Each GPU is predicted by what data/prior.json learnt without it, and by what it learnt
without its whole architecture; beside them what one would use instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.public_timings import Kernels, Whole, read
from fastlab.latency.devices import Device, datasheet_row, device
from fastlab.latency.estimates import EFFICIENCIES, estimate
from fastlab.latency.prior import group_of, prior, stored, with_engine
from fastlab.latency.profile import Profile, formula, parts_of
from fastlab.latency.whatif import typical
from fastlab.record import BOUNDS
from fastlab.scores.correction import Errors

LEFT_OUT = "prior, GPU left out", "prior, architecture left out"
FLOOR = "same GPU, other software"


class Scored(NamedTuple):
    """Rows as one method predicts them: what they are, seconds, and half-widths."""

    what: str
    gpu: str
    method: str
    predicted: np.ndarray
    measured: np.ndarray
    half: np.ndarray | None = None
    regime: np.ndarray | None = None


def score_folder(folder: Path) -> list[dict[str, Any]]:
    """The scores of a folder's timings; FileNotFoundError where it has none.

    GPUs that data/devices.csv lacks are left out, and said.
    """
    tables = read(folder)
    gpus = {one.gpu for table in tables for one in table}
    unknown = {gpu for gpu in gpus if datasheet_row(gpu) is None}
    for gpu in sorted(unknown):
        sys.stderr.write(f"left out: {gpu} is not in data/devices.csv\n")
    kept = ([one for one in table if one.gpu not in unknown] for table in tables)
    return score_published(*kept)


def score_published(
    kernels: Sequence[Kernels], wholes: Sequence[Whole]
) -> list[dict[str, Any]]:
    """Errors by class, by GPU and by regime, each method's own; inside = % in band."""
    rows = [one for part in kernels for one in _kernels(part)]
    rows += [one for call in wholes for one in _whole(call)]
    found: dict[tuple[str, str, str], list[Scored]] = {}
    for one in rows:
        found.setdefault((one.what, "all", one.method), []).append(one)
        if one.method in LEFT_OUT:
            found.setdefault((one.what, one.gpu, one.method), []).append(one)
            for part in _by_regime(one):
                found.setdefault(part, []).append(one)
    return [_errors(*key, some) for key, some in found.items()]


def _by_regime(one: Scored) -> list[tuple[str, str, str]]:
    held = [] if one.regime is None else sorted(set(one.regime.tolist()))
    return [(one.what, f"{BOUNDS[i]} bound", one.method) for i in held]


def _errors(what: str, of: str, method: str, some: Sequence[Scored]) -> dict[str, Any]:
    wanted = [_only(one, of) for one in some]
    predicted, measured = (
        np.concatenate([getattr(one, n) for one in wanted])
        for n in ("predicted", "measured")
    )
    made = asdict(Errors.of(method, measured, predicted))  # measured / estimated - 1
    made = {"what": what, "of": of, "method": made.pop("name")} | made
    del made["spearman"]
    if some[0].half is not None:
        half = np.concatenate([one.half for one in wanted])
        off = np.abs(np.log(measured / predicted))
        made["inside"] = 100 * float((off <= half).mean())
    return made


def _only(one: Scored, of: str) -> Scored:
    """The rows of a regime, or all of them."""
    if one.regime is None or not of.endswith(" bound"):
        return one
    mine = one.regime == BOUNDS.index(of.removesuffix(" bound"))
    assert one.half is not None
    cut = (one.predicted[mine], one.measured[mine], one.half[mine])
    return one._replace(predicted=cut[0], measured=cut[1], half=cut[2])


def learnt_without(gpu: str, method: str) -> dict[str, Any]:
    """What was learnt without a GPU, or its architecture; all of it, if it is new."""
    known = stored()
    architecture = known["architectures"].get(device(gpu).name, gpu)
    key = gpu if method == LEFT_OUT[0] else architecture
    return known["without"].get(key, known)


@lru_cache
def without(gpu: str, method: str, shared: bool = False, engine: str = "") -> Device:
    """The GPU as that describes it; shared: with its own share of the peak."""
    made, learnt = device(gpu), learnt_without(gpu, method)
    if shared:
        learnt = learnt | {"shares": stored()["shares"]}
    bands = {n: stored()[n] for n in ("stretch", "host_half") if n in stored()}
    fits = prior(made, learnt | bands, shared)
    if fits and engine in learnt["engines"]:
        fits = with_engine(fits, engine, learnt["engines"])
    return replace(made, fits=fits)


def _kernels(one: Kernels) -> Iterator[Scored]:
    what = f"{one.kind} {group_of(one.precision)} ({one.table})"
    sheet = device(one.gpu)
    for method in LEFT_OUT:
        fits = without(one.gpu, method).fits or Profile(())
        if fit := fits.find(one.kind, one.precision):
            seen = one.seen(fits.levels.get("fp16", ()))
            said, half = fit.predict(seen)
            regime = parts_of(fit.parameters, seen).argmax(axis=0)
            said = said + one.events_s
            yield Scored(what, one.gpu, method, said, one.seconds, half, regime)
    for method, (compute, memory) in EFFICIENCIES.items():
        rates = {"peak": compute * sheet.product_rate(one.precision)}
        rates["bandwidth"] = memory * sheet.bandwidth
        said = formula(rates, one.work) + one.events_s
        yield Scored(what, one.gpu, method, said, one.seconds)
    for i in range(one.others.shape[1]):
        rest = np.delete(one.others, i, axis=1)
        both = ~np.isnan(one.others[:, i]) & ~np.isnan(rest).all(axis=1)
        if both.any():
            said = np.nanmedian(rest[both], axis=1)
            yield Scored(what, one.gpu, FLOOR, said, one.others[both, i])


def _whole(one: Whole) -> Iterator[Scored]:
    what, sheet = f"{one.software} ({one.table})", device(one.gpu)
    learnt = [
        m
        for m in LEFT_OUT
        if one.engine in ("", *learnt_without(one.gpu, m)["engines"])
    ]
    devices = [without(one.gpu, m, not one.engine, one.engine) for m in learnt]
    devices += [sheet, typical(sheet)]
    models = ["prior"] * len(learnt) + ["roofline", "roofline"]
    methods = [*learnt, *EFFICIENCIES]
    times = np.array([n for _, n in one.parts])
    for method, on, model in zip(methods, devices, models, strict=True):
        made = estimate([point for point, _ in one.parts], on, model)
        said, high = (
            np.array([times @ [getattr(e, n) for e in made]])
            for n in ("seconds", "high_s")
        )
        half = np.log(high / said) if method in LEFT_OUT else None
        yield Scored(what, one.gpu, method, said, np.array([one.seconds]), half)


if __name__ == "__main__":
    try:
        json.dump(score_folder(Path(sys.argv[1])), sys.stdout)
    except FileNotFoundError as error:
        sys.exit(str(error))
