"""Peak memory of a call, in its own pass: CUDA's allocator, else live tensors."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages alive while it is on; `peak` is the most at once.

    Storages seen before (weights, inputs, the cache) count from `held` on. Workspaces
    inside a kernel are not seen. Works on the CPU and on the meta device.
    """

    def __init__(self, held: Any = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()
        self.hold(held)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.hold(out)
        return out

    def hold(self, values: Any) -> None:
        """Count the storages of all tensors in `values` (any nesting) as alive."""
        for value in tree_leaves(values):
            if not isinstance(value, torch.Tensor):
                continue
            parts = [value]
            if value.layout == torch.sparse_csr:
                parts = [value.crow_indices(), value.col_indices(), value.values()]
            for part in parts:
                self._add(part.untyped_storage())
        self.peak = max(self.peak, self.live)

    def _add(self, storage: torch.UntypedStorage) -> None:
        identity, size = storage._cdata, storage.nbytes()
        if size and identity not in self._seen:
            self._seen.add(identity)
            self.live += size
            weakref.finalize(storage, self._drop, identity, size)

    def _drop(self, identity: int, size: int) -> None:
        self._seen.discard(identity)
        self.live -= size


def peak_bytes(model: torch.nn.Module, call: Any, device: str) -> tuple[int, Any]:
    """Most bytes allocated at once during one run, and what the run returned.

    Weights and inputs are included. It consumes the call: what only its reset() needs
    is let go before.
    """
    getattr(call, "release", call.reset)()
    live = LiveBytes(_held(model, call))
    if device != "cuda":
        with live:
            out = call.run()
        return live.peak, out
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    # Others hold the clock's flush buffer, which is no part of the call.
    others = torch.cuda.memory_allocated() - live.live
    out = call.run()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated()) - others, out


def _held(model: torch.nn.Module, call: Any) -> list[Any]:
    """Weights, buffers, inputs and the cache: what is there before the run."""
    cache = getattr(call, "cache", None)
    inner = (getattr(cache, f"{n}_attention_cache", None) for n in ("self", "cross"))
    layers = [vars(x) for one in (cache, *inner) for x in getattr(one, "layers", ())]
    return [*model.parameters(), *model.buffers(), *vars(call).values(), *layers]
