"""Profile: what a calibration found, kept in the device's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fastlab.cost.fit import ClassFit
from fastlab.spec.checks import make

# Kinds that only move bytes are much alike: where one was not timed, another serves.
STAND_IN = "elementwise"
MOVERS = ("norm", "copy", "embedding")


@dataclass(frozen=True)
class Profile:
    """Fits per (class, precision), host seconds per launch, and where they come from.

    dispatch_s: of one operation launched eagerly; replay_s: of one whole CUDA graph.
    provenance: free text by name (versions, date, seconds and points it took).
    """

    fits: tuple[ClassFit, ...]
    dispatch_s: float = 0.0
    replay_s: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen = [(one.kind, one.precision) for one in self.fits]
        twice = sorted({pair for pair in seen if seen.count(pair) > 1})
        if twice:
            raise ValueError(f"more than one fit of {' '.join(twice[0])}")

    def find(self, kind: str, precision: str) -> ClassFit | None:
        """The fit for a class of operations at a precision, None where there is none.

        Elementwise operations stand in for norms, copies and embeddings.
        """
        known = {(one.kind, one.precision): one for one in self.fits}
        other = STAND_IN if kind in MOVERS else kind
        return known.get((kind, precision), known.get((other, precision)))

    def holds(self, precision: str) -> bool:
        """Whether matrix products at `precision` were calibrated."""
        return self.find("linear", precision) is not None

    @property
    def count(self) -> int:
        """Calibration points of all fits."""
        return sum(one.count for one in self.fits)

    @property
    def seconds(self) -> float:
        """How long the calibration took, as its provenance says; 0 if it does not."""
        return float(self.provenance.get("seconds", 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        """The inverse of `to_dict`, also after JSON; ValueError names a wrong field."""
        fits = tuple(ClassFit.from_dict(one) for one in data.get("fits", ()))
        made: Profile = make(cls, {**data, "fits": fits})
        return made
