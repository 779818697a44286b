"""The answer: Estimate, Measurement, Quality and the Record that joins them.

Seconds and integer nanoseconds here; tables made from records speak milliseconds.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from fastlab.spec.checks import check_choice, digest, make
from fastlab.spec.point import Point

SCHEMA = 1
# Of an attempt that its worker did not live through; poison: of the second such one.
DIED = ("timeout", "crash", "poison")
STATUSES = ("ok", "oom", "unsupported", "nonfinite", "error", *DIED)
FLAGS = ("noisy", "throttled", "launch_bound", "shared_gpu", "shared_cpu", "in_cache")
BOUNDS = ("compute", "memory", "launch")
BUSY = " (busy)"  # ends the name of a profile that a busy machine was calibrated for
SAMPLES = ("device_ns", "e2e_ns", "enqueue_ns")  # of a measurement
KEPT_SAMPLES = 500
TIMES = ("seconds", "low_s", "high_s")  # of an estimate or a measurement
HUGE = 1e300  # numbers of rows are below: they are multiplied
PLAIN = ("run", "attempt", "round", "at_utc", "device", "status", "reason")


@dataclass(frozen=True)
class Estimate:
    """What a point should cost: counts are exact, seconds lie from low_s to high_s.

    flops counts dense attention, flops_causal what a causal kernel does. weight_bytes
    are those read by the call; peak_bytes covers weights, cache and live activations.
    `bound` names what takes most of the time: compute, memory or launch. extrapolated:
    much of the time goes to operations beyond the range that was calibrated.
    """

    model: str
    profile: str
    parameters: int
    flops: int
    flops_causal: int
    weight_bytes: int
    activation_bytes: int
    kv_read_bytes: int
    kv_write_bytes: int
    kv_cache_bytes: int
    peak_bytes: int
    launches: int
    seconds: float
    low_s: float
    high_s: float
    bound: str
    extrapolated: bool = False

    @property
    def busy(self) -> bool:
        """Whether it was made with rates that were measured on a busy machine."""
        return self.profile.endswith(BUSY)


@dataclass(frozen=True)
class Measurement:
    """What the clock said: the median in seconds, its 95 % interval, the raw samples.

    seconds is device time (the host's, on a CPU). device_ns, e2e_ns and enqueue_ns are
    the samples in ns: event pairs, host round trips, host time to queue the work.
    compile_s: compiling and capturing, before any sample; None where nothing was.
    stages: host seconds of what came before that and the first call: load, distill,
    shrink, quantize (where the model was built for this row) and prepare.
    """

    seconds: float
    low_s: float
    high_s: float
    n: int
    converged: bool
    stopped: str  # why sampling ended: "converged", "budget" or "n_max"
    cache: str  # "cold" or "warm": what the caches held before each sample
    warmup_calls: int
    first_call_s: float
    flags: tuple[str, ...] = ()
    device_ns: tuple[int, ...] = ()
    e2e_ns: tuple[int, ...] = ()
    enqueue_ns: tuple[int, ...] = ()
    peak_bytes: int | None = None
    compile_s: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)

    def trimmed(self, keep: int = KEPT_SAMPLES) -> Measurement:
        """The same with at most `keep` samples of each kind, evenly spaced."""
        thin: dict[str, Any] = {n: _thin(getattr(self, n), keep) for n in SAMPLES}
        return replace(self, **thin)


@dataclass(frozen=True)
class Quality:
    """What the model lost against the dense fp32 reference, on the same tokens.

    kl_nats: KL(reference || model) per position; top1: share of positions with the same
    likeliest token; max_abs: largest difference of a logit. bits_per_byte of a real
    text, from low to high, and the reference's; None where the tokens are no text.
    Intervals hold 95 %, over blocks of the text; None where there are too few.
    """

    reference: str
    text_sha: str
    kl_nats: float
    top1: float
    max_abs: float
    bits_per_byte: float | None = None
    low: float | None = None
    high: float | None = None
    dense_bits_per_byte: float | None = None
    kl_low: float | None = None
    kl_high: float | None = None
    top1_low: float | None = None
    top1_high: float | None = None


@dataclass(frozen=True)
class Effective:
    """What really ran: dtype, attention implementation, parameters, stored bytes."""

    dtype: str
    attention: str
    parameters: int
    weight_bytes: int


PARTS: dict[str, type] = {  # of a record, or None
    **{"estimate": Estimate, "measured": Measurement},
    **{"quality": Quality, "effective": Effective},
}


@dataclass(frozen=True)
class Record:
    """One point on one device under one set of timing settings, and all we know of it.

    `settings` are the timing settings as a dict, `env` the digest of the environment,
    `reason` says why a status is not "ok".
    """

    point: Point
    device: str
    settings: Mapping[str, Any]
    status: str
    estimate: Estimate | None = None
    measured: Measurement | None = None
    quality: Quality | None = None
    effective: Effective | None = None
    reason: str = ""
    env: str = ""
    run: str = ""
    attempt: int = 1
    round: int = 1
    at_utc: str = ""
    key: str = field(default="")

    def __post_init__(self) -> None:
        check_choice("status", self.status, STATUSES)
        if not self.reason.isascii():  # half a surrogate pair is no text elsewhere
            reason = self.reason.encode("utf-8", "backslashreplace").decode()
            object.__setattr__(self, "reason", reason)
        if not self.key:
            key = row_key(self.point, self.device, self.settings)
            object.__setattr__(self, "key", key)

    @property
    def settings_key(self) -> str:
        """sha256 of the timing settings, in hex."""
        return digest(dict(self.settings))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of one store line, without its crc32."""
        measured = self.measured.trimmed() if self.measured else None
        values = {n: getattr(self, n) for n in PARTS} | {"measured": measured}
        return {
            "schema": SCHEMA,
            "kind": "record",
            "key": self.key,
            "settings_key": self.settings_key,
            "env": self.env,
            "settings": dict(self.settings),
            "point": self.point.to_dict(),
            **{n: getattr(self, n) for n in PLAIN},
            **{n: v and asdict(v) for n, v in values.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """The record of one store line; raises KeyError or ValueError if it is none."""
        own: dict[str, Any] = {n: data[n] for n in _OWN}
        own |= {n: _checked(kind, data.get(n)) for n, kind in PARTS.items()}
        made: Record = _checked(cls, own | {"point": Point.from_dict(own["point"])})
        made.__post_init__()
        return made


_OWN = [f.name for f in fields(Record) if f.name not in PARTS]


def _checked(kind: Any, data: Any) -> Any:
    """What `make` makes, its values checked; at once where all are as a field's are."""
    if data is None:
        return None
    if not isinstance(data, dict):
        raise ValueError(f"{kind.__name__}={data!r} must be a mapping of its fields")
    numbers, lists = _plain(kind, tuple(data), tuple(map(type, data.values())))
    wild = [n for n in numbers if not -HUGE < data[n] < HUGE]
    if not numbers or wild or any(map(data.get, lists)) or data.get("seconds", 1) <= 0:
        _check_values(made := make(kind, data))
        return made
    made = object.__new__(kind)  # its __init__ takes twice as long: a store has many
    vars(made).update(data | dict.fromkeys(lists, ()))
    return made


@lru_cache
def _plain(kind: Any, names: tuple[str, ...], types: tuple[type, ...]) -> Any:
    """The numbers and lists, where all fields are there and their types fit."""
    given, fits = dict(zip(names, types, strict=True)), _kinds(kind)
    lists = [n for n, _, inner in fits if inner and given.get(n) is list]
    told = given | dict.fromkeys(lists, tuple)
    whole = given.keys() == {f.name for f in fields(kind)}
    if not whole or not all(told[name] in kinds for name, kinds, _ in fits):
        return (), ()
    return [n for n, *_ in fits if given[n] in (int, float)], lists


def _check_values(part: Any) -> None:
    """Raise ValueError where a line's value is no text, number, ... as its field is."""
    own = vars(part)
    for name, kinds, inner in _kinds(part.__class__):
        fits = type(value := own[name]) in kinds
        if isinstance(value, int | float):
            fits = fits and -HUGE < value < HUGE and (name != "seconds" or value > 0)
        if not fits or (inner and not {*map(type, value)} <= {inner}):
            raise ValueError(f"{name}={value!r} is not what {name} can be")


@lru_cache
def _kinds(cls: Any) -> list[tuple[str, set[type], Any]]:
    """Fields of plain values: name, types, and the type of what a tuple holds."""
    found = []
    for name, hint in get_type_hints(cls).items():
        origin, args = get_origin(hint), get_args(hint)
        kinds = {dict if origin is Mapping else origin} if args else {hint}
        kinds = {*args} if origin is UnionType else kinds
        if float in kinds:  # what was not finite is stored as null, but of a time
            kinds |= {int} if name in TIMES else {int, type(None)}
        if not any(map(is_dataclass, kinds)):
            found.append((name, kinds, args[0] if origin is tuple else None))
    return found


def row_key(point: Point, device: str, settings: Mapping[str, Any]) -> str:
    """sha256 of (point, device, timing settings): the identity of a measured row."""
    parts = {"point": point.to_dict(), "device": device, "settings": dict(settings)}
    return digest(parts)


def sync(file: int) -> None:
    """os.fsync, where the file system has it: some shared folders do not."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path), then put that file in the place of `path` at once.

    A link at `path` is replaced, and what it points to stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    fresh.unlink(missing_ok=True)
    try:
        write(fresh)
        with fresh.open("rb+") as handle:
            sync(handle.fileno())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _thin(samples: tuple[int, ...], keep: int) -> tuple[int, ...]:
    if len(samples) <= keep:
        return samples
    step = (len(samples) - 1) / (keep - 1)
    return tuple(samples[round(i * step)] for i in range(keep))
