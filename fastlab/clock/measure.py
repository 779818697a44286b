"""Point -> Record: estimate first, then build, time, check; never an exception.

A `Bench` keeps the last model, so that points which share one pay for it once.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from fastlab import machine
from fastlab.clock.calibrate import this_device
from fastlab.clock.clocks import clock_for
from fastlab.clock.peak import peak_bytes
from fastlab.clock.timing import Clock, Settings, time_call
from fastlab.cost.devices import Device
from fastlab.cost.latency import estimate
from fastlab.models import build, numerics, prepare
from fastlab.record import Effective, Estimate, Record
from fastlab.spec.point import Point


class DeviceLost(RuntimeError):
    """The device answers no more in this process; a new process may go on."""


def measure(
    point: Point,
    device: str = "auto",
    settings: Settings | None = None,
    profile: Device | None = None,
    model: nn.Module | None = None,
) -> Record:
    """Estimate and time one point on this machine's device.

    `profile` is what the estimate is made with (by default this device, calibrated);
    `model` a ready model, needed for trained weights. Trouble becomes the record's
    status and reason: oom, unsupported, nonfinite, error.
    """
    bench = Bench.here(device, settings, profile)
    bench.adopt(point, model)
    return bench.measure(point)


@dataclass
class Bench:
    """One device with its clock and settings, and the model that was built last."""

    kind: str
    settings: Settings
    profile: Device
    clock: Clock
    name: str
    latency: str = "auto"
    _key: tuple[Any, ...] = field(default=(), repr=False)
    _model: nn.Module | None = field(default=None, repr=False)

    @classmethod
    def here(
        cls,
        device: str = "auto",
        settings: Settings | None = None,
        profile: Device | None = None,
        latency: str = "auto",
    ) -> Bench:
        """A device of this machine; ValueError if it has no such device."""
        kind = machine.torch_device(device)
        settings = settings or Settings.for_device(kind)
        profile = profile or this_device(kind)
        name = machine.device_name(kind)
        return cls(kind, settings, profile, clock_for(kind), name, latency)

    def adopt(self, point: Point, model: nn.Module | None) -> None:
        """Use `model` for points that share this one's shape, weights and precision."""
        if model is not None:
            self._key, self._model = model_key(point), model

    def measure(self, point: Point) -> Record:
        """The record of one point. Raises only DeviceLost and KeyboardInterrupt."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = Record(point, self.name, self.settings.to_dict(), "ok", at_utc=at)
        reason = machine.refusal(self.kind, point.recipe.precision)
        if reason:
            return replace(record, status="unsupported", reason=reason)
        try:
            record = replace(record, estimate=self._estimate(point))
            return self._measured(record)
        except Exception as error:
            return self._failed(record, error)

    def _estimate(self, point: Point) -> Estimate:
        return estimate([point], self.profile, model=self.latency)[0]

    def _measured(self, record: Record) -> Record:
        self._refuse_hopeless(record)
        point = record.point
        model = self._model_for(point)
        with numerics(point.recipe.precision):
            call = prepare(model, point, self.kind)
            measured = time_call(call, self.settings, self.clock)
            peak, out = peak_bytes(model, call, self.kind)
        record = replace(record, effective=_effective(model))
        if not bool(torch.isfinite(out).all()):
            reason = "the output has values that are not finite"
            return replace(record, status="nonfinite", reason=reason)
        return replace(record, measured=replace(measured, peak_bytes=peak))

    def _refuse_hopeless(self, record: Record) -> None:
        """On a CPU, running out of memory takes the machine down: ask before.

        A GPU says so by itself, and the process goes on.
        """
        assert record.estimate is not None
        need, room = record.estimate.peak_bytes, machine.free_bytes(self.kind)
        if self.kind == "cpu" and need > room:
            raise torch.OutOfMemoryError(
                f"not tried: about {need / 2**30:.1f} GiB needed, "
                f"{room / 2**30:.1f} GiB free"
            )

    def _model_for(self, point: Point) -> nn.Module:
        key = model_key(point)
        if self._model is None or key != self._key:
            self.release()
            self._model, self._key = build(point, self.kind), key
        return self._model

    def release(self) -> None:
        """Let go of the model and of the memory that it held."""
        self._model, self._key = None, ()
        gc.collect()
        if self.kind == "cuda":
            torch.cuda.empty_cache()

    def _failed(self, record: Record, error: Exception) -> Record:
        status = "oom" if is_out_of_memory(error) else "error"
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]
        error.__traceback__ = None  # its frames hold the tensors
        self.release()
        self._check_alive(reason)
        return replace(record, status=status, reason=reason)

    def _check_alive(self, reason: str) -> None:
        """After a CUDA error other than out-of-memory nothing works in this process."""
        try:
            if self.kind == "cuda":
                torch.ones(1, device="cuda").item()
        except RuntimeError as error:
            raise DeviceLost(
                f"the GPU answers no more in this process after: {reason}. "
                "Start the same command again: it goes on where it stopped."
            ) from error


def model_key(point: Point) -> tuple[Any, ...]:
    """Points with the same key can be measured on the same built model."""
    recipe = point.recipe
    return point.shape, point.weights, recipe.precision, recipe.attention


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in words or "can't allocate memory" in words
    )


def _effective(model: nn.Module) -> Effective:
    weights = list(model.parameters())
    return Effective(
        dtype=str(weights[0].dtype).removeprefix("torch."),
        attention=str(model.config._attn_implementation),  # type: ignore[union-attr]
        parameters=sum(w.numel() for w in weights),
        weight_bytes=sum(w.numel() * w.element_size() for w in weights),
    )
