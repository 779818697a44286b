"""For modules of the old house until they move: see fastlab.figures.roofline."""

from __future__ import annotations

from collections.abc import Sequence

from fastlab.figures.roofline import device_menu
from fastlab.latency.devices import Device


def choices(devices: Sequence[Device | None]) -> dict[str, Device]:
    """Devices by the name that the menu shows: the given ones, then datasheets."""
    return device_menu(*devices)
