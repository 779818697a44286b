"""Runtimes: what runs a model's calls, where each fits, and what refuses it. No torch.

Adding one is adding its line to ENGINES, and to RUN in runtime/engines.py how it makes
calls ready. All others ask here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

PHASES = ("prefill", "decode", "generate")
CACHES = ("dynamic", "none", "static", "static-int8", "static-fp8")
STATIC = tuple(name for name in CACHES if name.startswith("static"))
GPUS = ("cuda", "rocm")  # kinds of device that torch calls cuda


class Hardware(Protocol):
    """What a device is asked: the machine at hand, or one that is only described."""

    @property
    def kind(self) -> str:
        """A kind of device: cuda, rocm, mps, tpu or cpu."""

    def lacks(self, precision: str) -> str:
        """Why it cannot compute in a precision, "" where it can."""

    def lacks_compiler(self) -> str:
        """Why nothing can be compiled for it, "" where it can."""

    def capability(self) -> tuple[int, int] | None:
        """An NVIDIA GPU's compute capability, None where it is not known."""


@dataclass(frozen=True)
class Engine:
    """A runtime. caches: those that it decodes with; encodes: whether it runs bert.

    compiled: whether its code is; ours: by fastlab, not by transformers itself, so that
    a product of one row may become a loop and flex attention a kernel. replays: decode
    steps are CUDA graphs on a GPU. unrolls: one call may take several decode steps.
    launches: of the host for each token, beside its forward pass. kinds: of devices
    that can run it, () = all, and why others cannot. about: for help.
    """

    name: str
    about: str
    phases: tuple[str, ...] = PHASES
    caches: tuple[str, ...] = ("none", *STATIC)
    encodes: bool = False
    compiled: bool = True
    ours: bool = True
    replays: bool = False
    unrolls: bool = False
    launches: int = 0
    kinds: tuple[str, ...] = ()
    why: str = ""

    def unsupported(self, device: Hardware) -> str:
        """Why a device cannot run it, "" where it can."""
        if self.kinds and device.kind not in self.kinds:
            return f"runtime {self.name} {self.why}"
        missing = device.lacks_compiler() if self.compiled else ""
        return f"runtime {self.name}: {missing}" if missing else ""


STEPS = ("decode", "generate")
ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            "eager",
            "operation by operation: the default",
            caches=CACHES,
            encodes=True,
            compiled=False,
            ours=False,
        ),
        Engine("compile", "torch.compile of the forward pass", encodes=True),
        Engine(
            "autotuned",
            'the same with mode="max-autotune": kernels chosen by timing several',
            encodes=True,
        ),
        Engine(
            "transformers",
            "generate() with its own static cache and compilation",
            ("generate",),
            ("static",),
            ours=False,
            replays=True,
            launches=14,
        ),
        Engine(
            "decoder",
            "fastlab's decode step compiled as one graph",
            STEPS,
            STATIC,
            unrolls=True,
        ),
        Engine(
            "graph",
            "that, replayed as a CUDA graph",
            STEPS,
            STATIC,
            replays=True,
            unrolls=True,
            kinds=GPUS,
            why="needs an NVIDIA GPU: CUDA replays the graph",
        ),
    )
}
RUNTIMES = tuple(ENGINES)
