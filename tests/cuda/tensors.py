"""Tensors on the GPU that is not there: the CPU's, marked by their storage.

A mode sees every operator. One of marked tensors, or that makes a tensor on "cuda", is
a kernel: the CPU computes its values, its outputs are marked, the timeline moves on.
Tensors above `Gpu.real_up_to` values are made on the meta device: a read of them is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from tests.cuda import operators
from tests.cuda.device import Kernel, gpu

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
REAL = {
    name: vars(torch._C.TensorBase)[name]
    for name in ("device", "is_cuda", "is_cpu", "is_meta")
}
REAL |= {name: getattr(torch.Tensor, name) for name in ("to", "cpu", "cuda")}
ATTENTION = aten.scaled_dot_product_attention.default  # one kernel, whichever
READS = (aten._local_scalar_dense.default, aten.equal.default)
LATE = (aten.nonzero.default, aten.masked_select.default, aten._unique2.default)
OVERWRITES = {aten.copy_.default, aten.zero_.default, aten.fill_.Scalar}
OVERWRITES |= {aten.normal_.default, aten.uniform_.default}  # they read nothing of it
MIXES = (aten.copy_.default, aten._to_copy.default, aten.index.Tensor)
MOST_FLOPS = 3e8  # of a product that the CPU computes
NAMES = {"_scaled_dot_product_flash_attention_for_cpu": "scaled_dot_product_attention"}


def storages(x: Tensor) -> list[torch.UntypedStorage]:
    """Those that hold a tensor: one, but of sparse and wrapped ones."""
    if hasattr(x, "__tensor_flatten__"):
        return [s for n in x.__tensor_flatten__()[0] for s in storages(getattr(x, n))]
    if x.layout == torch.sparse_csr:
        parts = (x.crow_indices(), x.col_indices(), x.values())
        return [part.untyped_storage() for part in parts]
    return [x.untyped_storage()]


def on_gpu(x: Tensor) -> bool:
    """Whether it is marked."""
    with torch._C._DisableTorchDispatch():
        return any(s._cdata in gpu().live for s in storages(x)[:1])


def is_real(x: Tensor) -> bool:
    """Whether it has values."""
    return not REAL["is_meta"].__get__(x)


class OnGpu(TorchDispatchMode):
    """Runs what concerns the GPU, and lets all else pass."""

    inside = False  # an operator on the GPU's tensors that is made of others

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("pin_memory"):  # which nothing here can do
            kwargs["pin_memory"] = False
        foreign = [t for t in types if hasattr(t, "__tensor_flatten__")]
        if foreign:
            return NotImplemented
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        marked = [x for x in given if on_gpu(x)]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        marked = [x for x in given if on_gpu(x)]
        if _is_composite(func):  # comes here whole in inference mode
            return self._parts(func, args, kwargs, bool(marked))
        device = kwargs.get("device")
        device = device and torch.device(device)
        if self.inside and device is not None and bool(marked) == bool(given):
            # What C++ makes beside a tensor that it takes for the CPU's.
            device = kwargs["device"] = CUDA
        if not marked and (device is None or device.type != "cuda"):
            return func(*args, **kwargs)
        if func in (aten._to_copy.default, aten.copy_.default):
            return self._move(func, args, kwargs, device, bool(marked))
        if device is not None and device.type == "cuda":
            kwargs["device"] = torch.device("cpu")
        elif device is not None and not func.name().startswith("aten::sparse_"):
            return func(*args, **kwargs)  # like one of the GPU's, but elsewhere
        if func not in MIXES:
            _same_device(given, marked)
        if func in READS:
            return self._read(func, args, kwargs)
        if func in LATE:  # its size is known to the device alone
            gpu().wait(str(func))
        return launched(func, args, kwargs, given)

    def _parts(self, func: Any, args: Any, kwargs: Any, marked: bool) -> Any:
        before, self.inside = self.inside, marked
        try:
            with self:
                return func._op_dk(COMPOSITE, *args, **kwargs)
        finally:
            self.inside = before

    def _read(self, func: Any, args: Any, kwargs: Any) -> Any:
        gpu().wait(f"read by {func}")
        if all(is_real(x) for x in args if isinstance(x, Tensor)):
            return func(*args, **kwargs)
        return True if func is aten.equal.default else _one(args[0].dtype)

    def _move(
        self, func: Any, args: Any, kwargs: Any, device: Any, marked: bool
    ) -> Any:
        if func is aten.copy_.default:
            to, source = args[0], args[1]
            there, here = on_gpu(to), on_gpu(source)
        else:
            to, source, here = None, args[0], marked
            there = here if device is None else device.type == "cuda"
            kwargs = kwargs | {"device": torch.device("cpu")} if device else kwargs
        if here and there:
            return launched(
                func, args, kwargs, [x for x in (to, source) if x is not None]
            )
        gpu().wait("copy from the host" if there else "copy to the host")
        if to is None and there and source.numel() > gpu().real_up_to:
            kwargs = kwargs | {"device": torch.device("meta")}
        if not is_real(source):
            if to is not None:
                return to
            made = {"dtype": kwargs.get("dtype") or source.dtype}
            return torch.ones(source.shape, **made)
        out = func(*args, **kwargs)
        if there:
            mark(out)
        return out


@lru_cache(None)
def _is_composite(func: Any) -> bool:
    """Whether it is made of other operators, on every device alike."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return func is not ATTENTION and has(func.name(), COMPOSITE)


def _one(dtype: torch.dtype) -> bool | int | float:
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def _same_device(given: list[Tensor], marked: list[Tensor]) -> None:
    strange = [x for x in given if x.dim() and not any(x is m for m in marked)]
    if marked and strange:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two "
            "devices, cuda:0 and cpu!"
        )


def mark(out: Any) -> None:
    """The storages of what an operator returned are on the GPU."""
    for x in tree_leaves(out):
        if isinstance(x, Tensor):
            for storage in storages(x):
                gpu().own(storage)


def launched(func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
    """What an operator returns; one kernel, unless it only looks at its inputs."""
    gpu().call(str(func))
    changes = [
        a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write
    ]
    views = any(
        r.alias_info and not r.alias_info.is_write for r in func._schema.returns
    )
    if views:
        return func(*args, **kwargs)
    run = operators.OPERATORS.get(func) or func
    if func.overloadpacket in flop_registry:
        run = operators.rounded(run)
    if gpu().graph is not None:
        return _captured(func, run, args, kwargs, given, bool(changes))
    out = _run(func, run, args, kwargs, given, bool(changes))
    mark(out)
    if kernel := kernel_of(func, args, kwargs, given, out, bool(changes)):
        gpu().launch(kernel)
    return out


def _run(
    func: Any, run: Any, args: Any, kwargs: Any, given: list[Tensor], changes: bool
) -> Any:
    size = (
        math.prod(args[0])
        if not given and args and isinstance(args[0], list | torch.Size)
        else 0
    )
    real = (
        all(map(is_real, given))
        and max(size, _flops(func, args, kwargs) / MOST_FLOPS * gpu().real_up_to)
        <= gpu().real_up_to
    )
    if real:
        with drawn_there(func):
            return run(*args, **kwargs)
    if changes:
        return args[0]  # nobody knows its values now
    return on_meta(func, args, kwargs)


def on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    """Shapes alone; of rows that are compressed, that nothing is in them."""
    if shape := operators.SHAPES.get(func):
        size, dtype = shape(*args)
        return torch.empty(size, dtype=dtype, device="meta")
    if func is aten._to_sparse_csr.default:
        n, k = args[0].shape
        none = torch.zeros(n + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        return torch.sparse_csr_tensor(*none, torch.zeros(0), (n, k))

    def away(x: Tensor) -> Tensor:
        how: Any = {"dtype": x.dtype, "device": "meta"}
        if x.layout != torch.strided:
            return torch.empty(x.shape, **how)
        return torch.empty_strided(x.shape, x.stride(), **how)

    if "device" in kwargs:
        kwargs = kwargs | {"device": torch.device("meta")}
    return func(
        *tree_map_only(Tensor, away, args), **tree_map_only(Tensor, away, kwargs)
    )


class drawn_there:
    """Within it random numbers are the GPU's own, where the operator draws some."""

    def __init__(self, func: Any) -> None:
        self.draws = torch.Tag.nondeterministic_seeded in func.tags

    def __enter__(self) -> None:
        if self.draws:
            self.host = torch.get_rng_state()
            torch.set_rng_state(gpu().generator.get_state())

    def __exit__(self, *_: object) -> None:
        if self.draws:
            gpu().generator.set_state(torch.get_rng_state())
            torch.set_rng_state(self.host)


def kernel_of(
    func: Any, args: Any, kwargs: Any, given: list[Tensor], out: Any, changes: bool
) -> Kernel | None:
    """The launch, None for what launches nothing: no new memory, nothing changed."""
    sizes = lambda xs: tuple((s._cdata, s.nbytes()) for x in xs for s in storages(x))  # noqa: E731
    outs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
    reads, writes = sizes(given), sizes(outs)
    if func in OVERWRITES:
        reads = tuple(one for one in reads if one not in writes)
    fresh = {at for at, _ in writes} - {at for at, _ in reads}
    name = func.overloadpacket._qualified_op_name.partition("::")[2]
    empty = name.startswith(("empty", "new_empty", "sparse_"))
    if empty or (not changes and not fresh):
        return None
    return Kernel(NAMES.get(name, name), _flops(func, args, kwargs, out), reads, writes)


def _flops(func: Any, args: Any, kwargs: Any, out: Any = None) -> int:
    if func is ATTENTION:
        (batch, heads, new, width), keys = args[0].shape, args[1].shape[2]
        return 4 * batch * heads * new * keys * width
    count = flop_registry.get(func.overloadpacket)
    if count is None or (out is None and func.overloadpacket is not aten.mm):
        return 0
    try:
        return int(count(*args, **kwargs, out_val=out))
    except (TypeError, AssertionError):
        return 0


def _captured(
    func: Any, run: Any, args: Any, kwargs: Any, given: list[Tensor], changes: bool
) -> Any:
    """Nothing is computed: outputs hold no values until the graph is replayed."""
    graph = gpu().graph
    if changes:
        kernel = kernel_of(func, args, kwargs, given, args[0], True)
        graph.note(kernel, lambda: run(*args, **kwargs))
        return args[0]
    shapes = on_meta(func, args, kwargs)
    real = all(map(is_real, given))
    fill: Callable[[Tensor], Tensor] = lambda x: torch.empty_strided(  # noqa: E731
        x.shape, x.stride(), dtype=x.dtype, device="cpu" if real else "meta"
    ).zero_()
    out = tree_map_only(Tensor, fill, shapes)
    mark(out)

    def again() -> None:
        if not real:
            return
        with drawn_there(func):
            found = run(*args, **kwargs)
        for x, y in zip(tree_leaves(out), tree_leaves(found), strict=True):
            if isinstance(x, Tensor):
                x.copy_(y)

    kernel = kernel_of(func, args, kwargs, given, out, False)
    if kernel is not None:
        graph.note(kernel, again)
    return out


# --- what torch.Tensor says of itself


def _said(name: str, of_marked: Any) -> property:
    real = REAL[name]

    def say(self: Tensor) -> Any:
        return of_marked if on_gpu(self) else real.__get__(self)

    return property(say)


def to(self: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Tensor.to: it moves between the CPU and the GPU, or not at all."""
    if args and isinstance(args[0], Tensor):
        other = args[0]
        args, kwargs = (), {"device": other.device, "dtype": other.dtype, **kwargs}
    device, dtype, *_ = torch._C._nn._parse_to(
        *args, **{k: v for k, v in kwargs.items() if k != "copy"}
    )
    here = on_gpu(self)
    there = here if device is None else device.type == "cuda"
    dtype, copy = dtype or self.dtype, kwargs.get("copy", False)
    if device is not None and device.type not in ("cpu", "cuda"):
        return REAL["to"](self, *args, **kwargs)
    if here == there and dtype == self.dtype and not copy:
        return self
    if not here and not there:
        return REAL["to"](self, dtype=dtype, copy=copy)
    if here == there:
        return torch.ops.aten._to_copy(self, dtype=dtype)
    return torch.ops.aten._to_copy(
        self, dtype=dtype, device=CUDA if there else torch.device("cpu")
    )


TENSOR = {
    "device": _said("device", CUDA),
    "is_cuda": _said("is_cuda", True),
    "is_cpu": _said("is_cpu", False),
    "is_meta": _said("is_meta", False),
    "to": to,
    "cpu": lambda self: to(self, "cpu"),
    "cuda": lambda self, device=None: to(self, "cuda"),
}
