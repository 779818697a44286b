"""What torch itself counts while a call runs, for the tests of costs."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fastlab.cost.operations import operations
from fastlab.cost.operations import total as total_of
from fastlab.cost.ops import Operation
from fastlab.spec import Point

FAMILIES = ("tiny-gpt2", "tiny-llama", "tiny-qwen3", "tiny-bert")


def total(point: Point, field: str = "flops") -> int:
    return total_of(point, field)


def named(point: Point) -> dict[str, Operation]:
    return {op.name: op for op in operations(point)}


def without_rope(counter: FlopCounterMode) -> int:
    """What torch counted, without RoPE's outer product.

    Up to some 5.x transformers made the angles by a matmul of head_dim x S FLOPs (5.17
    does, 5.23 does not); we leave RoPE out everywhere.
    """
    inside = counter.get_flop_counts().items()
    rope = sum(sum(c.values()) for name, c in inside if name.endswith("rotary_emb"))
    return counter.get_total_flops() - rope


class Kernels(TorchDispatchMode):
    """Counts dispatched operations that compute: views and bookkeeping left out.

    casts: conversions to another dtype too: under autocast they are the news. copies:
    and copies that transpose, and the numbers of a look-up's bits.
    """

    VIEWS = (
        *("view", "transpose", "split", "slice", "unsqueeze", "expand", "detach_"),
        *("alias", "dropout", "contiguous", "reshape", "to", "arange", "permute"),
        *("select", "t", "detach", "lift_fresh", "_to_copy"),
        *("sparse_compressed_tensor", "unbind"),
    )

    def __init__(self, casts: bool = False, copies: bool = False) -> None:
        super().__init__()
        self.count, self.casts, self.copies = 0, casts, copies
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, out = str(func).split(".")[1], func(*args, **(kwargs or {}))
        self.seen.add(name)
        self.count += name not in self.VIEWS
        if self.casts and name in ("to", "_to_copy"):
            self.count += out.dtype != args[0].dtype
        if self.copies and name == "contiguous":
            self.count += out.data_ptr() != args[0].data_ptr()
        if self.copies and name == "arange":
            self.count += str(out.dtype) == "torch.uint8"
        return out
