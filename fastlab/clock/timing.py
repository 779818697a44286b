"""Time a call: warm up, sample in blocks, stop for a stated reason, flag what is off.

The method is measuring.md section 3. The clock is passed in, so that every rule here is
tested with a scripted one (tests/clock/test_timing.py) and without a GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, Protocol

from fastlab.clock.clocks import Clock, GpuState
from fastlab.clock.stats import SURE_FROM, Summary, half_width, median, summary
from fastlab.record import FLAGS, Measurement
from fastlab.spec.checks import check_choice, check_count, make

CACHES = ("cold", "warm")
FEWEST = 3  # taken even over budget: one sample would be an interval of no width
REDOS, PAUSE_S, PAUSE_GROWTH = 3, 0.05, 1.5  # for throttled blocks, per measurement
LAUNCH_SHARE, NOISY_SPREAD = 0.9, 0.10
SLOW_NS, SLOW_N_MIN = 200_000_000, 10  # a call over 200 ms is judged from 10 samples

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "cuda": {"target": 0.01, "budget_s": 10.0, "n_min": 50, "n_max": 2000, "block": 10}
    | {"warmup_calls": 5, "warmup_s": 0.5, "warmup_cap_s": 5.0, "cache": "cold"},
    # A quiet 2-core box never reached 1 %, and flushing costs 49 ms a sample there.
    "cpu": {"target": 0.05, "budget_s": 2.0, "n_min": 20, "n_max": 1000, "block": 5}
    | {"warmup_calls": 3, "warmup_s": 0.2, "warmup_cap_s": 2.0, "cache": "warm"},
}
RANGES: Mapping[str, tuple[float, float]] = {
    **{"target": (0.0001, 1), "budget_s": (0.001, 86_400)},
    **{"warmup_s": (0, 600), "warmup_cap_s": (0, 600)},
}


@dataclass(frozen=True)
class Settings:
    """How to time; part of the key of a row. ValueError names a field that is off.

    Sampling ends when the 95 % interval is within `target` (a fraction) of the median,
    after n_max samples or budget_s seconds; warm-up lasts warmup_calls calls and
    warmup_s seconds, whichever is longer, but no call starts after warmup_cap_s.
    """

    target: float
    budget_s: float
    n_min: int
    n_max: int
    block: int
    warmup_calls: int
    warmup_s: float
    warmup_cap_s: float
    cache: str

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            number = _number(name, getattr(self, name), low, high)
            object.__setattr__(self, name, number)
        check_count("n_min", self.n_min, 1, 1_000_000)
        check_count("n_max", self.n_max, self.n_min, 1_000_000)
        check_count("block", self.block, 1, 1000)
        check_count("warmup_calls", self.warmup_calls, 0)
        check_choice("cache", self.cache, CACHES)

    @classmethod
    def for_device(cls, kind: str, **over: Any) -> Settings:
        """The defaults of "cuda" or "cpu", with `over` in place of some."""
        check_choice("device", kind, DEFAULTS)
        return cls.from_dict({**DEFAULTS[kind], **over})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """The settings of to_dict(); ValueError for a field it does not know."""
        return make(cls, data)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON."""
        return asdict(self)

    def verdict(self, samples_ns: Sequence[int], elapsed_s: float) -> str | None:
        """Why to stop now, "converged", "n_max" or "budget"; None to go on."""
        n, slow = len(samples_ns), median(samples_ns) > SLOW_NS
        fewest = max(min(self.n_min, SLOW_N_MIN) if slow else self.n_min, SURE_FROM)
        if n >= fewest and half_width(samples_ns) <= self.target:
            return "converged"
        if n >= self.n_max:
            return "n_max"
        return "budget" if elapsed_s >= self.budget_s else None


class Call(Protocol):
    """What is timed: run(); reset() comes before each run, outside the clock."""

    def run(self) -> Any: ...
    def reset(self) -> None: ...


def time_call(
    call: Call | Callable[[], Any], settings: Settings, clock: Clock
) -> Measurement:
    """Time a call or a function and say how sure the figure is; its errors pass on.

    No sample is dropped but in blocks redone on a throttled GPU: those always raise the
    flag "throttled", also where the redone block was clean.
    """
    asked: Any = call
    if not hasattr(call, "run"):  # nothing is to be undone between runs
        asked = SimpleNamespace(run=call, reset=lambda: None)
    bench, states = _Bench(asked, settings, clock), [clock.state()]
    with _gc_off():
        first_ns, _ = bench.round_trip(first=True)
        warmups, typical_ns = bench.warm_up(first_ns)
        samples, stopped = bench.sample(typical_ns, states)
        e2e, enqueue = bench.round_trips(samples)
    states.append(clock.state())
    device = summary(samples)
    return Measurement(
        seconds=device.median / 1e9,
        low_s=device.low / 1e9,
        high_s=device.high / 1e9,
        n=device.n,
        converged=stopped == "converged",
        stopped=stopped,
        cache=settings.cache,
        warmup_calls=warmups,
        first_call_s=first_ns / 1e9,
        flags=flags(stopped, device, enqueue, states),
        device_ns=tuple(samples),
        e2e_ns=e2e,
        enqueue_ns=enqueue,
    )


def flags(
    stopped: str, device: Summary, enqueue_ns: Sequence[int], states: Iterable[GpuState]
) -> tuple[str, ...]:
    """What to hold against a measurement, in the order of record.FLAGS.

    noisy: not converged, or an interquartile range over 10 % of the median.
    launch_bound: queueing takes 0.9 of the device time or more: the device waits for
    the host. throttled, shared_gpu: NVML said so before, between or after the blocks.
    """
    states = list(states)
    queued = median(enqueue_ns) if enqueue_ns else 0.0
    raised = {
        "noisy": stopped != "converged" or device.spread > NOISY_SPREAD,
        "throttled": any(state.throttled for state in states),
        "launch_bound": bool(enqueue_ns) and queued >= LAUNCH_SHARE * device.median,
        "shared_gpu": any(state.shared for state in states),
    }
    return tuple(name for name in FLAGS if raised.get(name))


def block_size(settings: Settings, taken: int, typical_ns: float, left_s: float) -> int:
    """Samples of the next block: as many as the budget still holds, at least one.

    The first block has 3 or more whatever the budget (one sample has no interval).
    """
    fits = int(max(left_s, 0.0) * 1e9 / max(typical_ns, 1.0))
    wanted = max(min(settings.block, fits), FEWEST - taken, 1)
    return min(wanted, settings.n_max - taken)


@dataclass(frozen=True)
class _Bench:
    call: Call
    settings: Settings
    clock: Clock

    def warm_up(self, typical_ns: int) -> tuple[int, int]:
        start, calls, wanted = self.clock.now_ns(), 0, self.settings
        while (spent_s := self._since(start)) < wanted.warmup_cap_s:
            if calls >= wanted.warmup_calls and spent_s >= wanted.warmup_s:
                break
            typical_ns, _ = self.round_trip()
            calls += 1
        return calls, typical_ns

    def sample(self, typical_ns: float, seen: list[GpuState]) -> tuple[list[int], str]:
        wanted, start = self.settings, self.clock.now_ns()
        samples: list[int] = []
        redone, stopped = 0, None
        while stopped is None:
            left_s = wanted.budget_s - self._since(start)
            typical_ns = median(samples) if samples else typical_ns
            size = block_size(wanted, len(samples), typical_ns, left_s)
            block = self._block(size)
            seen.append(self.clock.state())
            if seen[-1].throttled and redone < REDOS:
                self.clock.sleep(PAUSE_S * PAUSE_GROWTH**redone)
                redone += 1
                continue
            samples += block
            stopped = wanted.verdict(samples, self._since(start))
        return samples, stopped

    def round_trips(self, samples: list[int]) -> list[tuple[int, ...]]:
        # A host clock has made them already; on a device each leaves it idle: apart.
        if not self.clock.asynchronous:
            return [tuple(samples), ()]
        n = min(max(len(samples) // 10, 5), 50)
        pairs = [self.round_trip() for _ in range(n)]
        return [tuple(column) for column in zip(*pairs, strict=True)]

    def round_trip(self, first: bool = False) -> tuple[int, int]:
        # ns from call to synchronised result, and ns until run() returned. Queueing is
        # timed here, on an empty queue: inside a block a fast host fills it (about
        # 1,000 launches), then waits, and every large model would look launch-bound.
        self._prepare(first)
        self.clock.sync()
        start = self.clock.now_ns()
        _result = self.call.run()
        queued = self.clock.now_ns()
        self.clock.sync()
        return self.clock.now_ns() - start, queued - start

    def _block(self, size: int) -> list[int]:
        pairs = []
        for _ in range(size):
            self._prepare()
            start = self.clock.mark()
            # Short calls are not repeated inside a sample: a mean of repeats hides the
            # tail; a clock read costs 0.1 us, 1 % of a 10 us call.
            result = self.call.run()  # held, so that freeing it falls outside the marks
            pairs.append((start, self.clock.mark()))
            del result
        self.clock.sync()
        return [self.clock.between_ns(start, stop) for start, stop in pairs]

    def _prepare(self, first: bool = False) -> None:
        self.call.reset()
        if self.settings.cache == "cold" and not first:
            self.clock.flush()

    def _since(self, start_ns: int) -> float:
        return (self.clock.now_ns() - start_ns) / 1e9


@contextmanager
def _gc_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _number(name: str, value: object, low: float, high: float) -> float:
    # As a float: 1 and 1.0 must not make two keys of one row.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name}={value!r} must be a number from {low} to {high}")
    return float(value)  # type: ignore[arg-type]
