"""Other programs on this machine: the cores that they took while something was timed.

Two threads that share a core wait for each other in every parallel operation, which
makes small ones many times slower: all samples alike, so that no statistics can tell.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

STAT = Path("/proc/stat")  # Linux alone tells it without a further package
IDLE = (3, 4)  # of its columns, in ticks: idle, waiting for a disk
GUESTS = 8  # from this column on: counted in others already
SLACK = 0.5  # cores that services, and what we start to compile, may take
SHORTEST_S = 0.5  # ticks are of 10 ms: less tells nothing


def is_contended(cores: float | None, kind: str) -> bool:
    """Whether others that take so many cores leave too few for our threads."""
    ours = 1 if kind == "cuda" else torch.get_num_threads()
    return cores is not None and ours + cores > (os.cpu_count() or ours) + SLACK


def all_seconds() -> float | None:
    """Seconds that all cores worked since the machine began; None where none tells.

    What a virtual machine's host gave to others is among them.
    """
    try:
        ticks = [int(n) for n in STAT.read_text().split("\n")[0].split()[1:]]
        idle = sum(ticks[column] for column in IDLE)
    except (OSError, ValueError, IndexError):
        return None
    return (sum(ticks[:GUESTS]) - idle) / os.sysconf("SC_CLK_TCK")


def our_seconds() -> float:
    """Seconds that this process worked, with the children that it waited for."""
    return sum(os.times()[:4])


@dataclass(frozen=True)
class CpuContention:
    """A look at the clock, at the machine's work and at ours; see `cores`."""

    began: float = field(default_factory=time.monotonic)
    taken: float | None = field(default_factory=all_seconds)
    ours: float = field(default_factory=our_seconds)

    def cores(self) -> float | None:
        """Cores that others took on average since this look; None if unknown."""
        spent, taken = time.monotonic() - self.began, all_seconds()
        if taken is None or self.taken is None or spent < SHORTEST_S:
            return None
        return max(taken - self.taken - (our_seconds() - self.ours), 0.0) / spent
