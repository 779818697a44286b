"""Devices: dense peaks, bandwidth, memory, price; read from data/devices.csv."""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fastlab.latency.profile import Profile
from fastlab.spec.checks import check_choice, check_count, check_names, digest
from fastlab.spec.engines import GPUS
from fastlab.spec.precision import FORMATS

KINDS = ("cuda", "rocm", "mps", "tpu", "cpu")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")

# Eager PyTorch without autograd spends about 5-12 us on a kernel before it runs:
# Python 1, binding 1, dispatcher 1-2, backend 1-5, cudaLaunchKernel 1-3 us
# (https://jiahuanglin.xyz/all_lessons/gpu_kernel_serving/18_pytorch_to_kernel.html).
# 8 us is the middle. It depends on the host's CPU far more than on the device, so
# that calibrate() replaces it. In a CUDA graph about 1.3 us remain.
EAGER_LAUNCH_S = 8e-6

# Columns of the CSV that become a number, with the factor to SI units.
_NUMBERS = {
    "bandwidth": ("bandwidth_gb_s", 1e9),
    "memory_bytes": ("memory_gib", 2**30),
    "l2_bytes": ("l2_mib", 2**20),
}
_TEXTS = ("name", "aliases", "kind", "source", "date")
_PRICES = ("price_per_hour_usd", "price_source", "price_date", "note")
_COLUMNS = (*_TEXTS, *PRECISIONS, *(c for c, _ in _NUMBERS.values()), *_PRICES)

_MAKERS = re.compile("^(nvidia|tesla|geforce|amd|instinct|apple|google)+")


@dataclass(frozen=True)
class Device:
    """What a machine could do at best: FLOP/s, bytes/s, bytes, seconds, USD."""

    name: str
    kind: str  # one of KINDS
    peak_flops: Mapping[str, float] = field(hash=False)  # dense FLOP/s; absent = cannot
    bandwidth: float  # bytes/s of main memory
    memory_bytes: int
    l2_bytes: int  # last-level cache; 0 = unknown
    launch_s: float  # host and device overhead of one kernel launched eagerly
    price_per_hour: float | None  # USD
    source: str  # URL, or "calibrated <utc date>"
    date: str
    profile: str  # "datasheet:<alias>" or "calibrated:<8 hex of the content>"
    fits: Profile | None = field(default=None, hash=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a kind, precision or number that no device can have (ValueError)."""
        check_choice("kind", self.kind, KINDS)
        check_names("peak_flops", self.peak_flops, PRECISIONS)
        for precision, rate in self.peak_flops.items():
            _check_number(f"peak_flops[{precision}]", rate)
        check_count("memory_bytes", self.memory_bytes, 1, 2**63)
        check_count("l2_bytes", self.l2_bytes, 0, 2**63)
        _check_number("bandwidth", self.bandwidth)
        _check_number("launch_s", self.launch_s, zero=True)
        if self.price_per_hour is not None:
            _check_number("price_per_hour", self.price_per_hour, zero=True)
        peaks = {p: float(rate) for p, rate in self.peak_flops.items()}
        object.__setattr__(self, "peak_flops", peaks)

    @property
    def calibrated(self) -> bool:
        """True when the numbers were measured on this machine, not read."""
        return self.profile.startswith("calibrated")

    def peak(self, precision: str) -> float:
        """Dense FLOP/s at `precision`; ValueError where the device cannot do it."""
        if precision not in self.peak_flops:
            has = ", ".join(self.peak_flops) or "nothing"
            raise ValueError(f"{self.name} has no {precision} peak; it has {has}")
        return self.peak_flops[precision]

    def can(self, precision: str) -> bool:
        """Whether the device has a peak for products in a recipe's precision."""
        return not self.lacks(precision)

    def lacks(self, precision: str) -> str:
        """Why it has no peak for products in a recipe's precision, "" where it has."""
        try:
            self.product_rate(precision)
        except ValueError as error:
            return str(error)
        return ""

    def lacks_compiler(self) -> str:
        """Nothing: of a device that is not at hand a compiler is taken for granted."""
        return ""

    def product_rate(self, precision: str) -> float:
        """Peak FLOP/s of products in a recipe's precision; ValueError as `peak`.

        Weights alone are unpacked to the dense precision, autocast computes in its own.
        Quantized activations take the peak of their own format, except that int8 falls
        back to the dense precision: every device can multiply whole numbers somehow. So
        does a calibrated GPU for fp8, whose peak no calibration measures.
        """
        made = FORMATS[precision]
        if made.dynamic and made.weights in self.peak_flops:
            return self.peak(made.weights)
        if made.weights == "fp8" and not (self.calibrated and self.kind in GPUS):
            self.peak("fp8")  # without it a device does not run it at all
        return self.peak(made.autocast or made.dense)

    def ridge(self, precision: str) -> float:
        """FLOP per byte above which `precision` is bound by compute, not by memory."""
        return self.product_rate(precision) / self.bandwidth

    def stamped(self) -> Device:
        """This device with a profile named by its content: "calibrated:<8 hex>"."""
        content = {k: v for k, v in self.to_dict().items() if k != "profile"}
        return replace(self, profile=f"calibrated:{digest(content)[:8]}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, SI units, one entry a field; `fits` only if it has any."""
        data = asdict(self)
        return data if self.fits else {k: v for k, v in data.items() if k != "fits"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Device:
        """The inverse of `to_dict`; ValueError names an unknown or missing field."""
        names = [f.name for f in fields(cls)]
        check_names("Device", data, names)
        missing = [name for name in names if name not in data and name != "fits"]
        if missing:
            raise ValueError(f"Device lacks {', '.join(missing)}")
        found = data.get("fits")
        return cls(**{**data, "fits": Profile.from_dict(found) if found else None})


def devices(path: str | Path | None = None) -> list[Device]:
    """Every row of devices.csv (default: the repository's), in order."""
    return [made for made, _ in _read(path)]


def device(name: str, path: str | Path | None = None) -> Device:
    """The device with torch's name or the alias `name`, in any case; or ValueError."""
    known = {
        _key(label): made
        for made, aliases in _read(path)
        for label in (made.name, *aliases)
    }
    if _key(name) in known:
        return known[_key(name)]
    close = difflib.get_close_matches(_key(name), known, n=3)
    names = dict.fromkeys(known[key].name for key in close)
    hint = f"; did you mean {' or '.join(names)}?" if names else ""
    raise ValueError(
        f"unknown device {name!r}{hint}; `fastlab devices` lists all of them"
    )


def _key(name: str) -> str:
    """Lower-case letters and digits of `name`, without the maker in front."""
    return _MAKERS.sub("", re.sub("[^a-z0-9]", "", name.lower()))


def _check_number(what: str, value: Any, zero: bool = False) -> None:
    """Raise ValueError unless `value` is a finite number above 0 (or 0, if said)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and (value > 0 or (zero and value == 0))):
        bound = ">= 0" if zero else "> 0"
        raise ValueError(f"{what}={value!r} must be a finite number {bound}")


def _default_path() -> Path:
    """data/devices.csv of the checkout, else of the package; or FileNotFoundError."""
    here = Path(__file__).resolve()
    places = [here.parents[n] / "data" / "devices.csv" for n in (2, 1)]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"{places[0]} is missing: fastlab needs the data folder of its repository;"
        " run from a checkout, or pass path="
    )


def _read(path: str | Path | None) -> list[tuple[Device, tuple[str, ...]]]:
    """(device, aliases) of each row; ValueError names the file, line and column."""
    path = Path(path) if path is not None else _default_path()
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path.name} lacks the columns {', '.join(missing)}")
        return [_parse(row, f"{path.name} line {reader.line_num}") for row in reader]


def _parse(row: Mapping[str, str], where: str) -> tuple[Device, tuple[str, ...]]:
    """(device, aliases) from one row of the CSV."""
    where = f"{where} ({row['name']})"
    if None in row:
        raise ValueError(f"{where}: more cells than columns; quote a cell with commas")
    for column in _TEXTS:
        if not row[column]:
            raise ValueError(f"{where}, column {column}: must not be empty")
    aliases = tuple(row["aliases"].split(";"))
    peaks = {p: _number(row, p, where, 1e12) for p in PRECISIONS if row[p]}
    numbers = {f: _number(row, c, where, k) for f, (c, k) in _NUMBERS.items()}
    price = row["price_per_hour_usd"]
    made = Device(
        name=row["name"],
        kind=_kind(row, where),
        peak_flops=peaks,
        bandwidth=numbers["bandwidth"],
        memory_bytes=round(numbers["memory_bytes"]),
        l2_bytes=round(numbers["l2_bytes"]),
        launch_s=EAGER_LAUNCH_S,
        price_per_hour=_number(row, "price_per_hour_usd", where) if price else None,
        source=row["source"],
        date=row["date"],
        profile=f"datasheet:{aliases[0]}",
    )
    return made, aliases


def _kind(row: Mapping[str, str], where: str) -> str:
    """The `kind` of a row, or ValueError with the place."""
    try:
        check_choice("kind", row["kind"], KINDS)
    except ValueError as error:
        raise ValueError(f"{where}, column kind: {error}") from None
    return row["kind"]


def _number(row: Mapping[str, str], column: str, where: str, unit: float = 1) -> float:
    """A cell as a positive number times `unit`, or ValueError with the place."""
    try:
        value = float(row[column])
        _check_number(column, value)
    except (TypeError, ValueError):
        problem = f"{row[column]!r} is not a positive number"
        raise ValueError(f"{where}, column {column}: {problem}") from None
    return float(f"{value * unit:.15g}")  # 989.4 * 1e12 is exactly 989.4e12 again
