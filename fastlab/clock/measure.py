"""Point -> Record: estimate first, then build, time, check; never an exception.

A `Bench` keeps the last model, so that points which share one pay for it once.
"""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from fastlab import machine
from fastlab.clock.calibrate import COPY_BYTES, copy_bandwidth, this_device
from fastlab.clock.clocks import clock_for
from fastlab.clock.cpu_contention import CpuContention, is_contended
from fastlab.clock.peak import peak_bytes
from fastlab.clock.quality import PACKED, Reference
from fastlab.clock.timing import Clock, Settings, time_call
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.models import numerics
from fastlab.record import Effective, Estimate, Quality, Record, row_key
from fastlab.runtime.cache import dtype_of
from fastlab.runtime.engines import prepare
from fastlab.shrink.parts import logical_parameters, stored_weight_bytes
from fastlab.shrink.recipes import build, stage
from fastlab.shrink.trained import Trained
from fastlab.spec.point import Point
from fastlab.spec.recipe import PLAIN
from fastlab.spec.unsupported import unsupported
from fastlab.words import si

CACHED_BYTES = 500 * 2**20  # weights below this are served from a GPU's L2 in part
CACHES_HELD = 8  # on a CPU: weights below so many last-level caches
NOTHING_S = 1e-4  # a stage that takes less had nothing to do
COPY_S = 0.3  # how long the copy that a run's bandwidth is read from lasts


class DeviceLost(RuntimeError):
    """The device answers no more in this process; a new process may go on."""


def measure(
    point: Point,
    device: str = "auto",
    settings: Settings | None = None,
    profile: Device | None = None,
    model: nn.Module | None = None,
    trained: Trained | None = None,
) -> Record:
    """Estimate and time one point on this machine's device.

    `profile` is what the estimate is made with (by default this device, calibrated);
    `model` a ready model; `trained` where weights that are not random come from.
    Trouble becomes the record's status and reason: oom, unsupported, nonfinite, error.
    """
    bench = Bench.for_device(device, settings, profile, trained=trained)
    bench.use_model(point, model)
    return bench.measure(point)


Judged = tuple[Quality | None, str]  # what a model lost, or why that is not known


@dataclass
class Bench:
    """One device with its clock and settings, and the model that was built last.

    judge: also compare each model that is not dense fp32 with the one that is.
    trained: where weights that are not random come from.
    """

    kind: str
    settings: Settings
    profile: Device
    clock: Clock
    name: str
    judge: bool = True
    trained: Trained | None = None
    _reference: Reference = field(init=False, repr=False)
    _judged: dict[Any, Judged] = field(default_factory=dict, repr=False)
    _key: tuple[Any, ...] = field(default=(), repr=False)
    _model: nn.Module | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._reference = Reference(self.kind, self.trained)

    @classmethod
    def for_device(
        cls,
        device: str = "auto",
        settings: Settings | None = None,
        profile: Device | None = None,
        trained: Trained | None = None,
    ) -> Bench:
        """A device of this machine; ValueError if it has no such device."""
        kind = machine.torch_device(device)
        how = settings or Settings.for_device(kind), profile or this_device(kind)
        own = clock_for(kind), machine.device_name(kind)
        return cls(kind, *how, *own, trained=trained)

    def key(self, point: Point) -> str:
        """The key of the rows that a point gets here."""
        return row_key(point, self.name, self.settings.to_dict())

    def use_model(self, point: Point, model: nn.Module | None) -> None:
        """Use `model` for points that share this one's shape, weights and precision."""
        if model is not None:
            self._key, self._model = point.model_key, model

    def measure(self, point: Point) -> Record:
        """The record of one point. Raises only DeviceLost and KeyboardInterrupt."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = Record(point, self.name, self.settings.to_dict(), "ok", at_utc=at)
        if reason := unsupported(point, machine.Here(self.kind)):
            return replace(record, status="unsupported", reason=reason)
        try:
            [expected] = estimate([point], self.profile)
            record = replace(record, estimate=expected)
            self._refuse_hopeless(expected)
            return self._measured(record)
        except Exception as error:
            return self._failed(record, error)

    def _measured(self, record: Record) -> Record:
        point, stages = record.point, dict[str, float]()
        model = self._model_for(point, stages)
        with numerics(point.recipe.precision):
            with stage(stages, "prepare"):
                call = prepare(model, point, self.kind)
            others = CpuContention()
            measured = time_call(call, self.settings, self.clock)
            shared = is_contended(others.cores(), self.kind)
            compile_s = getattr(call, "compile_s", None)
            stages["prepare"] -= compile_s or 0.0
            if compile_s is not None and self.kind == "cpu":
                # Live tensors are counted as operations make them: compiled code's not.
                call.reset()
                peak, out = None, call.run()
            else:
                peak, out = peak_bytes(model, call, self.kind)
        record = replace(record, effective=(effective := _effective(model)))
        if not bool(torch.isfinite(out).all()):
            reason = "the output has values that are not finite"
            return replace(record, status="nonfinite", reason=reason)
        flags = (*measured.flags, *["shared_cpu"] * shared)
        if point.workload.phase != "prefill" and self._cached(effective.weight_bytes):
            flags = (*flags, "in_cache")
        did = {name: s for name, s in stages.items() if s > NOTHING_S}
        more: dict[str, Any] = {"compile_s": compile_s, "stages": did}
        measured = replace(measured, peak_bytes=peak, flags=flags, **more)
        lost, reason = self._quality(model, point)
        return replace(record, quality=lost, reason=reason, measured=measured)

    def _cached(self, size: int) -> bool:
        """Whether so many bytes of weights need not come from memory in each decode."""
        held = CACHES_HELD * machine.last_level_cache_bytes(self.kind)
        return size < (CACHED_BYTES if self.kind == "cuda" else held)

    def _quality(self, model: nn.Module, point: Point) -> Judged:
        """What the model lost, asked once of each model and cache, or why unknown.

        Nothing is asked of dense fp32 with random weights: it is what others are
        compared with, and there is no text. Trouble costs the quality, not the time
        that was measured.
        """
        recipe = point.recipe
        packed = recipe.cache if recipe.cache in PACKED else ""
        plain = recipe.weights_key == PLAIN.weights_key and point.seed is not None
        if not self.judge or (plain and not packed):
            return None, ""
        key = point.model_key, packed
        if key not in self._judged:
            try:
                self._judged[key] = self._reference.quality(point, model)
            except Exception as error:
                self._judged[key] = None, _said(error, 200)
        lost, why = self._judged[key]
        return lost, f"no quality: {why}" if why else ""

    def environment(self) -> Mapping[str, Any]:
        """This machine's, with the bandwidth of a copy measured now in bytes per s.

        Of what no cache holds, or a tenth of the free memory if that is less. With
        trained weights also their text, if named, and the folder of their students.
        """
        size = min(COPY_BYTES[self.kind], machine.free_bytes(self.kind) // 10)
        quick = {"budget_s": COPY_S, "warmup_calls": 0, "warmup_s": 0, "cache": "warm"}
        settings = Settings.for_device(self.kind, **quick)
        copied = copy_bandwidth(self.kind, settings, size)
        found = machine.environment(self.kind) | {"copy_bytes_per_s": round(copied)}
        of = {n: getattr(self.trained, n, "") for n in ("text", "students")}
        return {**found, **{name: value for name, value in of.items() if value}}

    def _refuse_hopeless(self, expected: Estimate) -> None:
        """On a CPU, running out of memory takes the machine down: ask before.

        A GPU says so by itself, and the process goes on.
        """
        need, room = expected.peak_bytes, machine.free_bytes(self.kind)
        if self.kind == "cpu" and need > room:
            raise torch.OutOfMemoryError(
                f"not tried: about {si(need, 'B')} needed, {si(room, 'B')} free"
            )

    def _model_for(self, point: Point, seconds: dict[str, float]) -> nn.Module:
        key = point.model_key
        if self._model is None or key != self._key:
            if self._model is not None:
                self.release()
            self._model = build(point, self.kind, self.trained, seconds)
            self._key = key
        return self._model

    def release(self, failed: bool = False) -> None:
        """Let go of the model and of the memory that it held."""
        held = self._model and weakref.ref(self._model)
        self._model, self._key = None, ()
        torch._dynamo.reset()  # what was compiled for it
        if failed or self.kind == "cuda" or (held and held()):
            gc.collect()  # 0.3 s, and only compiled models need it to go
        if self.kind == "cuda":
            torch.cuda.empty_cache()

    def _failed(self, record: Record, error: Exception) -> Record:
        """The error's row; DeviceLost where no CUDA call works any more after it."""
        status = "oom" if is_out_of_memory(error) else "error"
        reason = _said(error, 500)
        try:
            self.release(failed=True)  # which a lost device refuses too
            if self.kind == "cuda":
                torch.ones(1, device="cuda").item()
        except RuntimeError as lost:
            raise DeviceLost(
                f"the GPU answers no more in this process after: {reason}. "
                "Start the same command again: it goes on where it stopped."
            ) from lost
        return replace(record, status=status, reason=reason)


def _said(error: Exception, most: int) -> str:
    """Class and first line of an error; its frames, which hold tensors, let go."""
    error.__traceback__, name = None, type(error).__name__
    try:
        return f"{name}: {error}".strip().splitlines()[0][:most]
    except Exception:
        return f"{name}: (its message cannot be read)"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words, first = "out of memory|can't allocate memory", _said(error, 1000)
    return isinstance(error, RuntimeError) and bool(re.search(words, first, re.I))


def _effective(model: Any) -> Effective:
    dtype = str(dtype_of(model)).removeprefix("torch.")
    counts = logical_parameters(model), stored_weight_bytes(model)
    return Effective(dtype, str(model.config._attn_implementation), *counts)
