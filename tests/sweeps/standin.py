"""A bench that measures nothing and misbehaves as told, for workers without torch.

What a point does is named by its seed: `FAULTS`, or the file "faults" of its folder.
Each measurement leaves a line in the file "measured".
"""

import ctypes
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastlab.clock.timing import Settings
from fastlab.record import Measurement, Quality, Record
from fastlab.spec import ModelShape, Point
from fastlab.sweeps.plan import Target

SHAPE = ModelShape.preset("tiny-gpt2")
SETTINGS = Settings.for_device("cpu", budget_s=0.01, warmup_s=0.0)
NAN = float("nan")
HELD: list[Any] = []


class Unsayable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def points(count: int, first: int = 0) -> list[Point]:
    """Points of one model, told apart by their seed."""
    return [Point(SHAPE, weights=f"random:{n}") for n in range(first, first + count)]


class StandIn(Target):
    """A bench; faults: what the points of these seeds do instead of a row."""

    def __init__(self, folder: Path, faults: Mapping[int, str]) -> None:
        super().__init__("a stand-in", SETTINGS)
        self.folder, self.faults = folder, faults
        self.leave("workers", os.getpid())

    def leave(self, name: str, word: object) -> None:
        with (self.folder / name).open("a") as file:
            file.write(f"{word}\n")

    def environment(self) -> Mapping[str, Any]:
        return {"device": self.name}

    def measure(self, point: Point) -> Record:
        seed = int(point.seed or 0)
        self.leave("measured", seed)
        record = Record(
            point, self.name, self.settings.to_dict(), "ok", measured=taken(seed + 1)
        )
        fault = self.faults.get(seed, "")
        return getattr(self, fault)(record) if fault else record

    def slow(self, record: Record) -> Record:
        time.sleep(0.003)
        return record

    def hang(self, record: Record) -> Record:
        subprocess.Popen(["sleep", "1000"])  # a child is to go as well
        time.sleep(1000)
        return record

    def leaves(self, record: Record) -> Record:
        os._exit(3)

    def crash(self, record: Record) -> Record:
        ctypes.string_at(0)
        return record

    def crash_once(self, record: Record) -> Record:
        if (self.folder / "measured").read_text().split().count(
            str(record.point.seed)
        ) > 1:
            return record
        return self.crash(record)

    def fail(self, record: Record) -> Record:
        raise RuntimeError("half a pair: \ud800, CUDA error: an illegal memory access")

    def unsayable(self, record: Record) -> Record:
        raise Unsayable

    def cuda(self, record: Record) -> Record:
        words = "AcceleratorError: CUDA error: device-side assert triggered"
        return Record(record.point, self.name, record.settings, "error", reason=words)

    def no_memory(self, record: Record) -> Record:
        return Record(record.point, self.name, record.settings, "oom", reason="OOM")

    def nan(self, record: Record) -> Record:
        lost = Quality("fp32", "0" * 64, NAN, 0.5, float("inf"))
        return Record(
            record.point, self.name, record.settings, "ok", None, record.measured, lost
        )

    def nan_time(self, record: Record) -> Record:
        return Record(
            record.point, self.name, record.settings, "ok", measured=taken(NAN)
        )

    def delete(self, record: Record) -> Record:
        shutil.rmtree(self.folder / "store")
        return record

    def grow(self, record: Record) -> Record:
        HELD.append(bytearray(b"x") * 40_000_000)
        return record

    def prints(self, record: Record) -> Record:
        print("a library says something on stdout", flush=True)
        os.system("echo and so does its child")
        return record


def in_place_of_bench_of(*_: object) -> StandIn:
    """The command line's bench; $FASTLAB_STAND_IN says where, and $FASTLAB_FAULTS."""
    faults = json.loads(os.environ["FASTLAB_FAULTS"])
    own = {int(seed): fault for seed, fault in faults.items()}
    return StandIn(Path(os.environ["FASTLAB_STAND_IN"]), own)


def taken(seconds: float) -> Measurement:
    return Measurement(seconds, seconds, seconds, 3, True, "", "warm", 0, 1.0)
