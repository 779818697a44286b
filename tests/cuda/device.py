"""A GPU that is not there: its timeline, streams, events, graphs and memory.

Nothing here computes. Times are whole nanoseconds that tests choose: a kernel takes
what `Gpu.takes` says by its name, else what a roofline of the made-up rates gives. The
host has a clock of its own, which launching, waiting and sleeping move forward.
"""

from __future__ import annotations

import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

ROUND = 512  # the caching allocator gives out multiples of so many bytes
ILLEGAL = (
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be "
    "asynchronously reported at some other API call"
)
CAPTURING = "CUDA error: operation not permitted when stream is capturing"
NOT_READY = "CUDA error: device not ready"
Took = int | Iterator[int] | Callable[["Kernel"], int]


@dataclass(frozen=True)
class Kernel:
    """One launch: the operator's name, its FLOPs, and bytes of tensors by storage."""

    name: str
    flops: int = 0
    reads: tuple[tuple[int, int], ...] = ()  # (storage, bytes)
    writes: tuple[tuple[int, int], ...] = ()


@dataclass
class Gpu:
    """What a test says of the GPU, and what it saw.

    takes: ns by an operator's name, as a number, an iterator or a function of the
    kernel. launch_ns: of the host, for each kernel or replay. breaks_at: the launch,
    counted from 1, that reads where it must not: every call fails once that shows.
    limit: bytes that can be allocated. real_up_to: larger tensors have no values.
    """

    name: str = "NVIDIA H200"
    capability: tuple[int, int] = (9, 0)
    l2_bytes: int = 60 * 2**20
    memory_bytes: int = 2**37
    flops_per_s: float = 1e15
    bytes_per_s: float = 4e12
    l2_factor: float = 4.0  # how much faster than memory
    launch_ns: int = 4_000
    least_ns: int = 2_000
    takes: dict[str, Took] = field(default_factory=dict)
    breaks_at: int = 0
    limit: int = 0
    real_up_to: int = 2**22
    wrong: frozenset[torch.dtype] = frozenset()  # products of these are off by one
    always_tf32: bool = False
    # what was seen
    host_ns: int = 1_000_000
    launches: int = 0
    kernels: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    compiled: list[dict[str, Any]] = field(default_factory=list)
    allocated: int = 0
    peak: int = 0
    reserved: int = 0
    sync_debug: int = 0

    def __post_init__(self) -> None:
        self.lost = self.faulted = False
        self.live: dict[int, int] = {}  # bytes by storage: what is on the GPU
        self.cached: OrderedDict[int, int] = (
            OrderedDict()
        )  # what L2 holds, oldest first
        self.default = Stream.__new__(Stream)
        self.default.made(self)
        self.stream = self.default
        self.streams: list[Any] = [self.default]
        self.graph: Any = None  # what is being captured
        self.generator = torch.Generator().manual_seed(0)
        self.limit = self.limit or self.memory_bytes
        self.properties = SimpleNamespace(
            name=self.name,
            major=self.capability[0],
            minor=self.capability[1],
            total_memory=self.memory_bytes,
            multi_processor_count=132,
            L2_cache_size=self.l2_bytes,
            uuid="6e1e1d3c-0000-0000-0000-00000000f00d",
        )

    # --- the rules of every call

    def call(self, name: str) -> None:
        """Any call into CUDA: it fails once the device is lost."""
        self.calls[name] += 1
        if self.lost:
            raise torch.AcceleratorError(ILLEGAL)

    def unsafe(self, name: str) -> None:
        """A call that no capture may see: it waits, or copies to or from the host."""
        self.call(name)
        if self.graph is not None:
            self.graph.broken = True
            raise torch.AcceleratorError(CAPTURING)

    def wait(self, name: str, until: int | None = None) -> None:
        """The host waits for the device; what had gone wrong shows now."""
        self.unsafe(name)
        if self.sync_debug == 2:
            raise RuntimeError("called a synchronizing CUDA operation")
        ready = max(s.ready for s in self.streams) if until is None else until
        self.host_ns = max(self.host_ns, ready)
        if self.faulted:
            self.lost = True
            raise torch.AcceleratorError(ILLEGAL)

    # --- kernels

    def launch(self, kernel: Kernel) -> None:
        """Queue a kernel on the current stream."""
        self.call(kernel.name)
        self.host_ns += self.launch_ns
        self.execute(kernel)

    def execute(self, kernel: Kernel) -> None:
        self.launches += 1
        self.kernels[kernel.name] += 1
        self.faulted |= self.launches == self.breaks_at
        stream = self.stream
        stream.ready = max(stream.ready, self.host_ns) + self.duration(kernel)

    def duration(self, kernel: Kernel) -> int:
        """ns on the device."""
        hits = self._through_l2(kernel)
        took = self.takes.get(kernel.name)
        if callable(took):
            return took(kernel)
        if took is not None:
            return took if isinstance(took, int) else next(took)
        moved = sum(size for _, size in (*kernel.reads, *kernel.writes)) - hits
        bytes_s = (moved + hits / self.l2_factor) / self.bytes_per_s
        return max(
            round(1e9 * max(kernel.flops / self.flops_per_s, bytes_s)), self.least_ns
        )

    def _through_l2(self, kernel: Kernel) -> int:
        hits = sum(size for at, size in kernel.reads if at in self.cached)
        for at, size in (*kernel.reads, *kernel.writes):
            self.cached.pop(at, None)
            if size <= self.l2_bytes:
                self.cached[at] = size
            else:
                self.cached.clear()
        held = sum(self.cached.values())
        while held > self.l2_bytes:
            held -= self.cached.popitem(last=False)[1]
        return hits

    # --- memory

    def own(self, storage: torch.UntypedStorage) -> None:
        """A storage on the device, freed with its last tensor. OutOfMemoryError."""
        at, size = storage._cdata, storage.nbytes()
        if at in self.live:
            return
        room = -(-size // ROUND) * ROUND
        if self.allocated + room > self.limit:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 "
                f"has a total capacity of {self.limit / 2**30:.2f} GiB"
            )
        self.live[at] = room
        self.allocated += room
        self.peak = max(self.peak, self.allocated)
        self.reserved = max(self.reserved, self.allocated)
        weakref.finalize(storage, self._free, at)

    def _free(self, at: int) -> None:
        self.allocated -= self.live.pop(at, 0)
        self.cached.pop(at, None)


GPU: list[Gpu] = []  # the one that is there


def gpu() -> Gpu:
    return GPU[-1]


class Stream:
    """torch.cuda.Stream: what is queued on it is done at `ready` ns."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        gpu().call("Stream")
        self.made(gpu())
        gpu().streams.append(self)

    def made(self, owner: Gpu) -> None:
        self.ready, self.device, self.cuda_stream = 0, torch.device("cuda", 0), id(self)

    def wait_stream(self, stream: Stream) -> None:
        gpu().call("Stream.wait_stream")
        self.ready = max(self.ready, stream.ready)

    def wait_event(self, event: Event) -> None:
        event.wait(self)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        gpu().unsafe("Stream.query")
        return gpu().host_ns >= self.ready

    def synchronize(self) -> None:
        gpu().wait("Stream.synchronize", self.ready)


class Event:
    """torch.cuda.Event: the moment at which its stream comes to it."""

    def __init__(
        self,
        enable_timing: bool = False,
        blocking: bool = False,
        interprocess: bool = False,
        external: bool = False,
    ) -> None:
        gpu().call("Event")
        self.timing, self.at = enable_timing, -1

    def record(self, stream: Stream | None = None) -> None:
        gpu().call("Event.record")
        stream = stream or gpu().stream
        stream.ready = self.at = max(stream.ready, gpu().host_ns)

    def query(self) -> bool:
        gpu().unsafe("Event.query")
        return gpu().host_ns >= self.at

    def wait(self, stream: Stream | None = None) -> None:
        gpu().call("Event.wait")
        stream = stream or gpu().stream
        stream.ready = max(stream.ready, self.at)

    def synchronize(self) -> None:
        gpu().wait("Event.synchronize", self.at)

    def elapsed_time(self, end_event: Event) -> float:
        """ms, once both are done."""
        gpu().unsafe("Event.elapsed_time")
        if not (self.timing and end_event.timing):
            words = "Both events must be created with argument 'enable_timing=True'."
            raise ValueError(words)
        if min(self.at, end_event.at) < 0:
            raise ValueError(
                "Both events must be recorded before calculating elapsed time."
            )
        if max(self.at, end_event.at) > gpu().host_ns:
            raise torch.AcceleratorError(NOT_READY)
        return (end_event.at - self.at) / 1e6


class CUDAGraph:
    """torch.cuda.CUDAGraph: kernels noted while captured, all run by one replay."""

    def __init__(self, keep_graph: bool = False) -> None:
        gpu().call("CUDAGraph")
        self.steps: list[tuple[Kernel, Callable[[], None]]] = []
        self.broken, self.ready = False, False

    def capture_begin(
        self,
        pool: Any = None,
        capture_error_mode: str = "global",
        check_input_liveness: bool = False,
    ) -> None:
        gpu().unsafe("CUDAGraph.capture_begin")
        if gpu().stream is gpu().default:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        assert capture_error_mode == "global", capture_error_mode
        gpu().graph = self

    def capture_end(self) -> None:
        gpu().call("CUDAGraph.capture_end")
        gpu().graph = None
        if self.broken:
            words = (
                "CUDA error: operation failed due to a previous error during capture"
            )
            raise torch.AcceleratorError(words)
        self.ready = True

    def note(self, kernel: Kernel, run: Callable[[], None]) -> None:
        gpu().host_ns += gpu().launch_ns
        self.steps.append((kernel, run))

    def replay(self) -> None:
        gpu().unsafe("CUDAGraph.replay")
        if not self.ready:
            raise RuntimeError(
                "Called CUDAGraph::replay without a preceding successful capture."
            )
        gpu().host_ns += gpu().launch_ns
        with _disable_current_modes():
            for kernel, run in self.steps:
                gpu().execute(kernel)
                run()

    def reset(self) -> None:
        self.steps, self.ready = [], False

    def pool(self) -> tuple[int, int]:
        return (0, id(self))
