"""A bench that measures nothing, for what a sweep itself costs; no torch."""

from typing import Any

from fastlab.clock.timing import Settings
from fastlab.record import Record
from fastlab.spec import Point
from fastlab.sweeps.plan import Target


class NoOp(Target):
    """Answers each point with a row at once."""

    def __init__(self) -> None:
        super().__init__("nothing", Settings.for_device("cpu"))

    def environment(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}

    def measure(self, point: Point) -> Record:
        """A row without a measurement."""
        return Record(point, self.name, self.settings.to_dict(), "ok")
