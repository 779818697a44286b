"""Runtimes: what runs a model's calls, where each fits, and what refuses it. No torch.

Adding one is adding its line to ENGINES, and to RUN in runtime/engines.py how it makes
calls ready. All others ask here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

PHASES = ("prefill", "decode", "generate")
CACHES = ("dynamic", "none", "static", "static-int8", "static-fp8")
STATIC = tuple(name for name in CACHES if name.startswith("static"))
GPUS = ("cuda", "rocm")  # kinds of device that torch calls cuda


class Hardware(Protocol):
    """What a device is asked: the machine at hand, or one that is only described.

    kind: cuda, rocm, mps, tpu or cpu. lacks: why it cannot compute in a precision,
    lacks_compiler: why nothing can be compiled for it; "" where it can.
    """

    @property
    def kind(self) -> str: ...
    def lacks(self, precision: str) -> str: ...
    def lacks_compiler(self) -> str: ...


@dataclass(frozen=True)
class Engine:
    """A runtime. about: for help. caches: those that it decodes with.

    compiled: whether its code is; ours: by fastlab, not by transformers itself, so that
    a product of one row may become a loop and flex attention a kernel. replays: decode
    steps are CUDA graphs on a GPU. unrolls: one call may take several decode steps.
    launches: of the host for each token, beside its forward pass. on_gpus: why it runs
    on no other device, "" where it does.
    """

    name: str
    about: str
    phases: tuple[str, ...] = PHASES
    caches: tuple[str, ...] = ("none", *STATIC)
    compiled: bool = True
    ours: bool = True
    replays: bool = False
    unrolls: bool = False
    launches: int = 0
    on_gpus: str = ""

    def unsupported(self, device: Hardware) -> str:
        """Why a device cannot run it, "" where it can."""
        if self.on_gpus and device.kind not in GPUS:
            return f"runtime {self.name} needs an NVIDIA GPU: {self.on_gpus}"
        missing = device.lacks_compiler() if self.compiled else ""
        return missing and f"runtime {self.name}: {missing}"


STEPS: Any = {"phases": ("decode", "generate"), "caches": STATIC, "unrolls": True}
WHOLE: Any = {"phases": ("generate",), "caches": ("static",), "ours": False}
GRAPH: Any = {"replays": True, "on_gpus": "CUDA replays the graph"}
ALL = (
    Engine("eager", "operation by operation", PHASES, CACHES, False, ours=False),
    Engine("compile", "torch.compile of the forward pass"),
    Engine("autotuned", 'the same with mode="max-autotune"'),
    Engine("transformers", "its own generate()", replays=True, launches=14, **WHOLE),
    Engine("decoder", "fastlab's decode step compiled as one graph", **STEPS),
    Engine("graph", "that, replayed as a CUDA graph", **STEPS, **GRAPH),
)
ENGINES = {engine.name: engine for engine in ALL}
RUNTIMES = {engine.name: engine.about for engine in ALL}
