"""data/reference: rows measured on known devices, with how and with which profile.

A folder for each device: the store's *.jsonl, run.json (who measured, with what), and
where it was calibrated profile.json with its samples.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastlab.latency.devices import Device, datasheet_row, device
from fastlab.latency.samples import Sample
from fastlab.record import Record
from fastlab.spec.point import Point
from fastlab.sweeps.store import Store

FOLDER = Path(__file__).parents[2] / "data" / "reference"


@dataclass(frozen=True)
class Reference:
    """One device's folder, read when it is first asked for."""

    folder: Path

    @cached_property
    def records(self) -> list[Record]:
        """The rows, without raw samples."""
        return Store(self.folder).records(samples=False)

    @property
    def device(self) -> str:
        """The name of the rows' device, the folder's where there are none."""
        return self.records[0].device if self.records else self.folder.name

    @cached_property
    def profile(self) -> Device | None:
        """What profile.json holds, else the device by name, None if unknown."""
        path = self.folder / "profile.json"
        if path.exists():
            return Device.from_dict(json.loads(path.read_text(encoding="utf-8")))
        return device(self.device) if datasheet_row(self.device) else None

    @cached_property
    def samples(self) -> list[Sample]:
        """The microbenchmarks that the profile was fitted to, [] if not kept."""
        path = self.folder / "samples.json"
        read = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return [Sample(**{**one, "dims": tuple(one["dims"])}) for one in read]

    def rows(self, points: Iterable[Point]) -> list[Record]:
        """The rows of these points, in their order."""
        place = {point: n for n, point in enumerate(points)}
        found = [record for record in self.records if record.point in place]
        return sorted(found, key=lambda record: place[record.point])


def references() -> list[Reference]:
    """Every device under data/reference that has a run.json."""
    return [Reference(path.parent) for path in sorted(FOLDER.glob("*/run.json"))]


def reference_for(points: Iterable[Point]) -> Reference | None:
    """The reference that has most of these points, None if none has any."""
    points = list(points)
    counted = [(len(reference.rows(points)), reference) for reference in references()]
    most, best = max(counted, key=lambda pair: pair[0], default=(0, None))
    return best if most else None
