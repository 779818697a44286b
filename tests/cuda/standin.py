"""`standin()`: within it torch, NVML and triton see the GPU of `device.Gpu`.

Strict: whatever of torch.cuda and of NVML is not listed here raises and says its name.
"""

from __future__ import annotations

import importlib.machinery
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.utils.flop_counter
from torch._dynamo.utils import counters
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from tests.cuda import device, nvml, operators, tensors
from tests.cuda.device import GPU, CUDAGraph, Event, Gpu, Stream, gpu

# Written in Python on top of what is listed below, and used as it is.
REAL = {"graph", "stream", "StreamContext", "is_bf16_supported", "device_of"}
REAL |= {"OutOfMemoryError", "AcceleratorError", "DeferredCudaCallError"}
REAL |= {"Callable", "lru_cache", "Any", "cast", "NewType", "Optional", "classproperty"}


def _first(device: Any) -> None:
    """There is one GPU only."""
    plain = device is None or isinstance(device, int)
    index = device if plain else torch.device(device).index
    if index not in (None, 0):
        raise torch.AcceleratorError("CUDA error: invalid device ordinal")


def get_device_properties(device: Any = None) -> Any:
    _first(device)
    return gpu().properties


def get_device_capability(device: Any = None) -> tuple[int, int]:
    _first(device)
    return gpu().capability


def get_device_name(device: Any = None) -> str:
    _first(device)
    return gpu().name


def mem_get_info(device: Any = None) -> tuple[int, int]:
    gpu().call("mem_get_info")
    return gpu().limit - gpu().reserved, gpu().memory_bytes


def synchronize(device: Any = None) -> None:
    _first(device)
    gpu().wait("synchronize")


def empty_cache() -> None:
    gpu().call("empty_cache")
    gpu().reserved = gpu().allocated


def memory_allocated(device: Any = None) -> int:
    return gpu().allocated


def max_memory_allocated(device: Any = None) -> int:
    return gpu().peak


def reset_peak_memory_stats(device: Any = None) -> None:
    gpu().peak = gpu().allocated


def current_stream(device: Any = None) -> Stream:
    _first(device)
    return gpu().stream


def default_stream(device: Any = None) -> Stream:
    return gpu().default


def set_stream(stream: Stream) -> None:
    gpu().call("set_stream")
    gpu().stream = stream


def manual_seed_all(seed: int) -> None:
    gpu().generator.manual_seed(int(seed))


def get_rng_state(device: Any = "cuda") -> torch.Tensor:
    return gpu().generator.get_state()


def set_rng_state(new_state: torch.Tensor, device: Any = "cuda") -> None:
    gpu().generator.set_state(new_state)


def set_sync_debug_mode(debug_mode: int | str) -> None:
    names = {"default": 0, "warn": 1, "error": 2}
    gpu().sync_debug = names[debug_mode] if isinstance(debug_mode, str) else debug_mode


def sleep(cycles: int) -> None:
    gpu().launch(device.Kernel("_sleep"))
    gpu().stream.ready += cycles


TORCH_CUDA: dict[str, Any] = {
    f.__name__: f
    for f in (
        get_device_properties,
        get_device_capability,
        get_device_name,
        mem_get_info,
        synchronize,
        empty_cache,
        memory_allocated,
        max_memory_allocated,
        reset_peak_memory_stats,
        current_stream,
        default_stream,
        set_stream,
        manual_seed_all,
        get_rng_state,
        set_rng_state,
        set_sync_debug_mode,
        Stream,
        Event,
        CUDAGraph,
    )
} | {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "manual_seed": manual_seed_all,
    "is_current_stream_capturing": lambda: gpu().graph is not None,
    "_sleep": sleep,
    "_lazy_init": lambda: None,
    "_lazy_call": lambda callable, **_: callable(),
    "_is_in_bad_fork": lambda: False,
}


def refusing(name: str, real: Any) -> Any:
    """What stands for a function or class that nobody needed yet."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        words = f"torch.cuda.{name} is not in the stand-in (tests/cuda/standin.py)"
        raise NotImplementedError(words)

    return type(name, (), {"__new__": refuse}) if isinstance(real, type) else refuse


def torch_cuda() -> dict[str, Any]:
    """What replaces what in torch.cuda: all that can be called, or it refuses."""
    names = [n for n, value in vars(torch.cuda).items() if callable(value)]
    open_names = [n for n in names if n[0] != "_" and n not in REAL]
    return {n: refusing(n, getattr(torch.cuda, n)) for n in open_names} | TORCH_CUDA


def compile(
    model: Any = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: str = "inductor",
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    disable: bool = False,
) -> Callable[..., Any]:
    """torch.compile without a compiler: noted, and run as it is."""
    gpu().compiled.append({"fullgraph": fullgraph, "options": options, "mode": mode})
    made: list[bool] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        if not made:
            counters["stats"]["unique_graphs"] += 1
            made.append(True)
        return model(*args, **kwargs)

    return run


def tensor(data: Any, **how: Any) -> torch.Tensor:
    """torch.tensor: made on the host, then copied."""
    return _made(REAL_TENSOR, data, how)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> torch.Tensor:
    """torch.as_tensor."""
    if isinstance(data, torch.Tensor):
        return data.to(device or data.device, dtype or data.dtype)
    return _made(REAL_AS_TENSOR, data, {"dtype": dtype, "device": device})


REAL_TENSOR, REAL_AS_TENSOR = torch.tensor, torch.as_tensor


def _made(make: Callable[..., torch.Tensor], data: Any, how: Any) -> torch.Tensor:
    asked = how.pop("device", None)
    if asked is None:
        modes = _get_current_function_mode_stack()
        asked = next((m.device for m in modes if isinstance(m, DeviceContext)), "cpu")
    gpus = torch.device(asked).type == "cuda"
    made = make(data, **how, device="cpu" if gpus else asked)
    return made.to("cuda") if gpus else made


def do_bench(
    fn: Callable[[], Any],
    warmup: float = 25,
    rep: float = 100,
    grad_to_none: Any = None,
    quantiles: Any = None,
    return_mode: str = "mean",
) -> float:
    """triton's method: 256 MB zeroed before each run, an event on either side; ms."""
    fn()
    synchronize()
    cache = torch.empty(256 * 2**20 // 4, dtype=torch.int, device="cuda")
    start, end = Event(enable_timing=True), Event(enable_timing=True)
    start.record()
    for _ in range(5):
        cache.zero_()
        fn()
    end.record()
    synchronize()
    each = start.elapsed_time(end) / 5
    for _ in range(max(1, int(warmup / each))):
        fn()
    pairs = [(Event(True), Event(True)) for _ in range(max(1, int(rep / each)))]
    for before, after in pairs:
        cache.zero_()
        before.record()
        fn()
        after.record()
    synchronize()
    times = [before.elapsed_time(after) for before, after in pairs]
    assert return_mode == "median"
    return statistics.median(times)


def _module(name: str, **held: Any) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(made).update(held)
    return made


class _Modules:
    """These modules under their names; others that come meanwhile stay."""

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self.new = modules

    def __enter__(self) -> None:
        self.old = {name: sys.modules.get(name) for name in self.new}
        sys.modules.update(self.new)

    def __exit__(self, *_: object) -> None:
        for name, module in self.old.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def sleep_s(seconds: float) -> None:
    gpu().host_ns += round(seconds * 1e9)


def replaced() -> list[Any]:
    """All patches."""
    from fastlab import machine
    from fastlab.clock.clocks import CudaClock
    from fastlab.health import hardware

    testing = _module("triton.testing", do_bench=do_bench)
    modules = {"pynvml": nvml.module(), "triton.testing": testing}
    found = {"find_spec": lambda name: name == "triton" or find_spec(name)}
    graph = torch.cuda.graph
    patches = [mock.patch.object(torch.cuda, n, f) for n, f in torch_cuda().items()]
    patches += [
        mock.patch.object(torch.Tensor, n, f) for n, f in tensors.TENSOR.items()
    ]
    patches += [
        mock.patch.object(torch, "compile", compile),
        mock.patch.object(torch, "tensor", tensor),
        mock.patch.object(torch, "as_tensor", as_tensor),
        mock.patch.object(torch.version, "cuda", "13.0"),
        mock.patch.object(torch._C, "_host_emptyCache", dict, create=True),
        mock.patch.object(graph, "default_capture_stream", None),
        mock.patch.object(CudaClock, "now_ns", staticmethod(lambda: gpu().host_ns)),
        mock.patch.object(CudaClock, "sleep", staticmethod(sleep_s)),
        _Modules(modules),
        mock.patch.multiple(machine, **found),
        mock.patch.multiple(hardware, **found),
    ]
    return patches


@contextmanager
def standin(**how: Any) -> Iterator[Gpu]:
    """A GPU for as long as this lasts; `how`: fields of `device.Gpu`."""
    made = Gpu(**how)
    with ExitStack() as stack:
        GPU.append(made)
        stack.callback(GPU.remove, made)
        for patch in replaced():
            stack.enter_context(patch)
        # torch's own operator for 2:4 products calls it where no mode looks
        library = torch.library.Library("aten", "IMPL")
        stack.callback(library._destroy)
        library.impl("_cslt_sparse_mm", operators.cslt_mm, "CPU")
        stack.enter_context(tensors.OnGpu())
        yield made


__all__ = ["Gpu", "SimpleNamespace", "gpu", "standin", "time"]
