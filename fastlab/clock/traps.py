"""What goes wrong in timing code, as calls and samples that a notebook can show."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from fastlab.clock.clocks import Clock
from fastlab.clock.drift import COMPILERS, SIDES
from fastlab.clock.timing import Call, Settings, time_call
from fastlab.record import Measurement
from fastlab.spec.checks import check_choice, check_count

LONGEST = 160  # characters of a reason
READS = 1000  # of a clock, to find its smallest step


@dataclass(frozen=True)
class Series:
    """Times of one call in ns, in the order taken; the first few may be warm-up."""

    name: str
    ns: tuple[float, ...]
    first: int = 0

    @classmethod
    def naive(cls, name: str, seconds: Sequence[float], first: int) -> Series:
        """What a loop around time.time() collected, in seconds; ValueError if empty."""
        if not seconds:
            raise ValueError(f"{name}: the loop collected no times")
        # time.time() may step back, and its steps are coarse: no time is below 1 ns.
        return cls(name, tuple(max(s * 1e9, 1.0) for s in seconds), first)

    @classmethod
    def of(cls, name: str, measured: Measurement) -> Series:
        """The samples of a measurement: device time, the host's on a CPU."""
        return cls(name, measured.device_ns)


@dataclass(frozen=True)
class Layer:
    """One linear layer with its activation on one token: as a decode step uses it."""

    weights: torch.Tensor
    token: torch.Tensor
    work: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    @classmethod
    def square(cls, side: int, device: str = "cpu") -> Layer:
        """A layer of side x side fp32 weights; ValueError beyond 16 to 16384."""
        check_count("matrix_side", side, *SIDES)
        source = torch.Generator().manual_seed(0)
        weights = torch.randn(side, side, generator=source).to(device)
        return cls(weights, torch.randn(side, generator=source).to(device), _layer)

    @property
    def bytes(self) -> int:
        """Bytes of the weights, each of which every run reads once."""
        return self.weights.numel() * self.weights.element_size()

    def run(self) -> torch.Tensor:
        """Values (side,)."""
        return self.work(self.weights, self.token)

    def reset(self) -> None:
        """Nothing to undo."""


def _layer(weights: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(torch.mv(weights, token))


def warm_and_cold(call: Call, settings: Settings, clock: Clock) -> list[Series]:
    """The samples of a call with its data left in the caches, and with them flushed."""
    return [
        Series.of(cache, time_call(call, replace(settings, cache=cache), clock))
        for cache in ("warm", "cold")
    ]


def compiled(
    layer: Layer, compiler: str, settings: Settings, clock: Clock
) -> Measurement | str:
    """The layer through torch.compile, timed; or in words why that did not happen.

    `compiler` is "inductor" (needs a C++ compiler on a CPU), "eager" or "none"; else
    ValueError. What this process has compiled before is forgotten, so that the first
    call is a first one; generated C++ may still lie on disk from an earlier run.
    """
    check_choice("compiler", compiler, COMPILERS)
    if compiler == "none":
        return "not tried: compiler is 'none'"
    options = {"fx_graph_cache": False, "compile_threads": 1}
    extra: dict[str, Any] = {"options": options} if compiler == "inductor" else {}
    try:
        torch.compiler.reset()
        work = torch.compile(_layer, backend=compiler, **extra)
        return time_call(replace(layer, work=work), settings, clock)
    except Exception as error:  # no compiler, no headers, no triton: all end here
        why = str(error).strip().partition("\n")[0]
        return f"did not work here: {type(error).__name__}: {why}"[:LONGEST]


class Source(NamedTuple):
    """A clock of the host: its smallest step seen in ns, and whether it can be set."""

    name: str
    step_ns: float
    adjustable: bool


def sources() -> list[Source]:
    """The two clocks that people time with, read in a tight loop on this machine."""
    # As a float of seconds since 1970, time.time() cannot even say less than 238 ns.
    wall, steady = _step(time.time) * 1e9, _step(time.perf_counter_ns)
    free, fixed = (time.get_clock_info(name) for name in ("time", "perf_counter"))
    return [
        Source("time.time", wall, free.adjustable),
        Source("time.perf_counter_ns", steady, fixed.adjustable),
    ]


def _step(read: Callable[[], float], reads: int = READS) -> float:
    """The smallest step between two readings that differ; inf if none of them do."""
    seen = [read() for _ in range(reads)]
    steps = [b - a for a, b in pairwise(seen) if b > a]
    return min(steps, default=math.inf)
