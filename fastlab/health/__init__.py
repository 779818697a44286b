"""What works on this machine, what does not, and how to mend it.

A check is a function from a Subject to findings; adding one is writing it and naming it
in CHECKS. Whatever is heavy is imported inside the checks, so that doctor still starts
where torch is missing, broken or old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from fastlab import machine
from fastlab.health.hardware import (
    compiler,
    device,
    precisions,
    profile,
    sharing,
    timer,
)
from fastlab.health.report import Finding, Report, Subject
from fastlab.health.software import data, packages, python, results, store
from fastlab.spec.checks import check_choice

__all__ = ["CHECKS", "Finding", "Report", "Subject", "doctor", "findings"]

Check = Callable[[Subject], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    *(python, packages, device, precisions, compiler, sharing),
    *(timer, profile, results, data, store),
)
AGAIN = "mend what stands above first, then run `fastlab doctor` again"


def doctor(device: str = "auto", store: str | Path | None = None) -> Report:
    """Check this machine, and a store if one is named; takes some seconds.

    device is auto, cuda or cpu, else ValueError. Nothing that is broken raises.
    """
    return Report(tuple(findings(device, store)))


def findings(
    device: str = "auto", store: str | Path | None = None
) -> Iterator[Finding]:
    """The findings of `doctor`, each as soon as it is made."""
    check_choice("device", device, ("auto", *machine.DEVICE_KINDS))
    kind = trouble = ""
    try:
        kind = machine.torch_device(device)
    except (ValueError, ImportError, OSError, AttributeError) as error:
        trouble = str(error)
    subject = Subject(device, kind, trouble, None if store is None else Path(store))
    for check in CHECKS:
        try:
            yield from check(subject)
        except ModuleNotFoundError as error:  # the package has a line of its own
            yield Finding(check.__name__, None, f"not checked: {error}")
        except Exception as error:  # one that stumbles does not end the others
            words = f"the check stopped: {type(error).__name__}: {error}"
            yield Finding(check.__name__, False, words, AGAIN)
