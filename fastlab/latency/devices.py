"""Devices: dense peaks, bandwidth, memory, price; read from data/devices.csv."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fastlab.latency.prior import prior, stored, with_engine
from fastlab.latency.profile import Profile
from fastlab.record import BUSY
from fastlab.spec.checks import (
    Spec,
    check_choice,
    check_count,
    check_names,
    check_number,
    digest,
)
from fastlab.spec.formats import FORMATS

KINDS = ("cuda", "rocm", "mps", "tpu", "fpga", "cpu")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")

# Eager PyTorch without autograd spends about 5-12 us on a kernel before it runs:
# Python 1, binding 1, dispatcher 1-2, backend 1-5, cudaLaunchKernel 1-3 us
# (https://jiahuanglin.xyz/all_lessons/gpu_kernel_serving/18_pytorch_to_kernel.html).
# 8 us is the middle. It depends on the host's CPU far more than on the device, so
# that calibrate() replaces it. In a CUDA graph about 1.3 us remain.
EAGER_LAUNCH_S = 8e-6

FILE = Path(__file__).resolve().parents[2] / "data" / "devices.csv"

_TEXTS = ("name", "aliases", "kind", "source", "date")
_NUMBERS = (*PRECISIONS, "bandwidth_gb_s", "memory_gib", "l2_mib", "boost_mhz", "sms")
_PRICES = ("price_per_hour_usd", "price_source", "price_date", "note")
_COLUMNS = (*_TEXTS, *_NUMBERS, *_PRICES)

_MAKERS = re.compile("^(nvidia|tesla|geforce|amd|instinct|apple|google)+")


@dataclass(frozen=True)
class Device(Spec):
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
    profile: str  # "prior:<alias>:<8 hex>", "datasheet:<alias>", "calibrated:<8 hex>"
    fits: Profile | None = field(default=None, hash=False, repr=False)
    busy: str = ""  # what else went on while it was calibrated
    clock_hz: float = 0.0  # boost clock; 0 = unknown
    sms: int = 0  # multiprocessors of a CUDA GPU; 0 = unknown

    def __post_init__(self) -> None:
        """Refuse a kind, precision or number that no device can have (ValueError)."""
        check_choice("kind", self.kind, KINDS)
        check_count("memory_bytes", self.memory_bytes, 1, 2**63)
        check_count("l2_bytes", self.l2_bytes, 0, 2**63)
        check_names("peak_flops", self.peak_flops, PRECISIONS)
        for precision, rate in self.peak_flops.items():
            check_number(f"peak_flops[{precision}]", rate)
        check_number("bandwidth", self.bandwidth)
        check_number("launch_s", self.launch_s, zero=True)
        check_number("clock_hz", self.clock_hz, zero=True)
        check_count("sms", self.sms, 0, 2**16)
        if self.price_per_hour is not None:
            check_number("price_per_hour", self.price_per_hour, zero=True)
        self._set(peak_flops={p: float(rate) for p, rate in self.peak_flops.items()})

    def holds(self, precision: str) -> bool:
        """Whether products in a recipe's precision were calibrated on it."""
        return self.fits is not None and self.fits.holds(precision)

    @property
    def calibrated(self) -> bool:
        """True when the numbers were measured on this machine, not read."""
        return self.profile.startswith("calibrated")

    @property
    def fitted(self) -> str:
        """Which model of latency its fits are for: "calibrated", or "prior"."""
        return "prior" if self.profile.startswith("prior:") else "calibrated"

    @property
    def sheet(self) -> Device:
        """The device by its datasheet alone, without a prior; else as it is."""
        name = f"datasheet:{self.profile.split(':')[1]}"
        own = replace(self, fits=None, profile=name)
        return own if self.fitted == "prior" else self

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
        """Why it has no peak for products in a recipe's precision, "" where it has.

        Nor for those that the precision leaves dense: a T4 has int8, and no bf16.
        """
        if FORMATS[precision].cpu_only and self.kind != "cpu":
            return f"{precision} has kernels for CPUs only"
        try:
            self.product_rate(precision)
            self.peak(FORMATS[precision].dense)
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
        back to the dense precision: every device can multiply whole numbers somehow.
        """
        made = FORMATS[precision]
        if made.dynamic and made.weights in self.peak_flops:
            return self.peak(made.weights)
        if made.needs_peak:
            self.peak(made.weights)  # without it a device does not run it at all
        return self.peak(made.autocast or made.dense)

    def ridge(self, precision: str) -> float:
        """FLOP per byte above which `precision` is bound by compute, not by memory."""
        return self.product_rate(precision) / self.bandwidth

    def stamped(self) -> Device:
        """This device with a profile named by its content: "calibrated:<8 hex>".

        Where the machine was busy the name ends with that, wherever estimates take it.
        """
        content = {k: v for k, v in self.to_dict().items() if k != "profile"}
        name = f"calibrated:{digest(content)[:8]}"
        return replace(self, profile=name + BUSY * bool(self.busy))

    @property
    def trust(self) -> str:
        """Why its estimates are not to be trusted, in words; "" where nothing is."""
        rates = "rates of a busy machine"
        return f"estimated with {rates}: {self.busy}" if self.busy else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, SI units, one entry a field; `fits`, `busy` if any."""
        empty = ("fits", "busy", "clock_hz", "sms")
        return {k: v for k, v in asdict(self).items() if v or k not in empty}


def devices(path: str | Path | None = None) -> list[Device]:
    """Every row of devices.csv (default: the repository's), in order."""
    return [_with_prior(made) for made, _ in _read(Path(path or FILE))]


def device(name: str, engine: str = "") -> Device:
    """The device with torch's name or the alias `name`, in any case; or ValueError.

    engine: the serving engine of data/prior.json whose cost a step is added.
    """
    made = _with_prior(_find(name))
    if not engine:
        return made
    if made.fits is None:
        raise ValueError(f"engine={engine!r} needs a prior, and {made.name} has none")
    fits = with_engine(made.fits, engine)
    return replace(made, fits=fits, profile=f"{made.profile} + {engine}")


def _with_prior(made: Device) -> Device:
    """A datasheet's row, and what public measurements say of such a GPU."""
    if not (fits := prior(made)):
        return made
    name = made.profile.replace("datasheet", "prior", 1)
    return replace(made, fits=fits, profile=f"{name}:{stored()['stamp']}")


def datasheet_row(name: str) -> Device | None:
    """The device as the repository's devices.csv has it, None where it has none."""
    try:
        return _find(name)
    except ValueError:
        return None


def _find(name: str) -> Device:
    rows = [(made, (made.name, *aliases)) for made, aliases in _read(FILE)]
    known = {_key(label): made for made, labels in rows for label in labels}
    if _key(name) in known:
        return known[_key(name)]
    close = difflib.get_close_matches(_key(name), known, n=3)
    names = dict.fromkeys(known[key].name for key in close)
    hint = f"; did you mean {' or '.join(names)}?" if names else ""
    raise ValueError(f"unknown device {name!r}{hint}; `fastlab devices` lists all")


def _key(name: str) -> str:
    """Lower-case letters and digits of `name`, without the maker in front."""
    return _MAKERS.sub("", re.sub("[^a-z0-9]", "", name.lower()))


def _read(path: Path) -> list[tuple[Device, tuple[str, ...]]]:
    """(device, aliases) of each row; ValueError names the file, line and column."""
    if path == FILE and not path.is_file():
        needs = "fastlab needs the data folder of its repository"
        where = "run from a checkout, or pass path="
        raise FileNotFoundError(f"{path} is missing: {needs}; {where}")
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
    check_choice(f"{where}, column kind", row["kind"], KINDS)
    aliases, price = tuple(row["aliases"].split(";")), "price_per_hour_usd"
    texts: Any = ((n, row[n]) for n in ("name", "kind", "source", "date"))
    made = Device(
        peak_flops={p: _number(row, p, where, 1e12) for p in PRECISIONS if row[p]},
        bandwidth=_number(row, "bandwidth_gb_s", where, 1e9),
        memory_bytes=round(_number(row, "memory_gib", where, 2**30)),
        l2_bytes=round(_number(row, "l2_mib", where, 2**20)),
        launch_s=EAGER_LAUNCH_S * (row["kind"] != "tpu"),  # its programs are whole
        price_per_hour=_number(row, price, where) if row[price] else None,
        clock_hz=_number(row, "boost_mhz", where, 1e6) if row["boost_mhz"] else 0.0,
        sms=round(_number(row, "sms", where)) if row["sms"] else 0,
        profile=f"datasheet:{aliases[0]}",
        **dict(texts),
    )
    return made, aliases


def _number(row: Mapping[str, str], column: str, where: str, unit: float = 1) -> float:
    """A cell as a positive number times `unit` (SI's), or ValueError with the place."""
    try:
        value = float(row[column])
        check_number(column, value)
    except (TypeError, ValueError):
        problem = f"{row[column]!r} is not a positive number"
        raise ValueError(f"{where}, column {column}: {problem}") from None
    return float(f"{value * unit:.15g}")  # 989.4 * 1e12 is exactly 989.4e12 again
