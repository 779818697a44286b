"""data/reference: rows measured on known devices, with how and with which profile."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastlab.cost.devices import Device, device
from fastlab.cost.samples import Sample
from fastlab.record import Record
from fastlab.spec.point import Point
from fastlab.sweeps.store import Store

FOLDER = Path(__file__).parents[2] / "data" / "reference"


@dataclass(frozen=True)
class Reference:
    """One device's folder: a store of rows, run.json, profile and its samples."""

    folder: Path

    @cached_property
    def records(self) -> list[Record]:
        """The rows, without raw samples."""
        return Store(self.folder).records(samples=False)

    @cached_property
    def profile(self) -> Device | None:
        """profile.json, else the datasheet of the rows' device, else None."""
        path = self.folder / "profile.json"
        if path.exists():
            return Device.from_dict(json.loads(path.read_text(encoding="utf-8")))
        try:
            return device(self.records[0].device) if self.records else None
        except ValueError:
            return None

    @cached_property
    def samples(self) -> list[Sample]:
        """The microbenchmarks that the profile was fitted to, [] if not kept."""
        path = self.folder / "samples.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        read = [json.loads(line) for line in lines]
        return [Sample(**{**one, "dims": tuple(one["dims"])}) for one in read]


def references(folder: Path = FOLDER) -> list[Reference]:
    """Every device under data/reference that has a run.json."""
    return [Reference(p.parent) for p in sorted(folder.glob("*/run.json"))]


def reference_with(points: Iterable[Point], folder: Path = FOLDER) -> Reference | None:
    """The reference that has most of these points, None if none has any."""
    wanted = set(points)
    counts = [
        (sum(r.point in wanted for r in reference.records), reference)
        for reference in references(folder)
    ]
    most, best = max(counts, key=lambda pair: pair[0], default=(0, None))
    return best if most else None
