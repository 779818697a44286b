"""The check of what estimates of this machine are made from: its kept profile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastlab.health.report import Finding, Subject

if TYPE_CHECKING:
    from fastlab.latency.devices import Device

NAME = "profile"
NONE_YET = "none is kept: the first estimate measures this machine, in some seconds"
CROWDED = "do not trust it: close other programs, then run `fastlab calibrate`"
UNLIKE = "other programs are running, or it needs a new `fastlab calibrate`"


def profile(subject: Subject) -> Iterator[Finding]:
    """How much was calibrated, when, and whether the machine is still as fast.

    Never a failure: it may be the other programs of this moment.
    """
    from fastlab.clock.calibrate import is_busy, kept

    if not subject.kind:
        return
    found = kept(subject.kind)
    if found is None:
        yield Finding(NAME, None, NONE_YET)
    elif is_busy(found):
        yield Finding(NAME, None, f"{_known(found)}; {CROWDED}")
    else:
        yield _compared(found)


def _known(device: Device) -> str:
    if device.fits is None:
        how = "peak, bandwidth and launches only: `fastlab calibrate` fits the rest"
    else:
        how = f"{device.fits.count} points in {device.fits.seconds:.0f} s"
    return f"{device.source}, {how}"


def _compared(device: Device) -> Finding:
    from fastlab.clock.calibrate import alike, now_to_then

    launches, rate = now_to_then(device)
    said = f"{_known(device)}; launches now x{launches:.2f}, fp32 products x{rate:.2f}"
    if alike(launches, rate):
        return Finding(NAME, True, said)
    return Finding(NAME, None, f"{said}: {UNLIKE}")
