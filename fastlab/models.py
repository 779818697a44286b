"""Point -> a torch model with random weights, and the numerics that it runs in."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastlab.spec.formats import DENSE, FORMATS
from fastlab.spec.point import Point
from fastlab.spec.pruned import SIZES
from fastlab.spec.shape import GROUPED, ModelShape
from fastlab.tracing import configs
from fastlab.tracing.weights import fit_experts, outer_lists

PART, VECTOR = 2**18, 16  # random numbers held at once, and drawn as one by a CPU
DTYPES = {name: getattr(torch, FORMATS[name].dtype) for name in DENSE}


def stack_name(model: Any) -> str:
    """Dotted name of the list of a model's layers: as many as its config says.

    The outermost of several. Raises ValueError for a model without such a list.
    """
    config = getattr(model, "config", None)
    count = getattr(config, "num_hidden_layers", None)
    lists = [name for name, each in outer_lists(model).items() if len(each) == count]
    if not lists or getattr(config, "is_encoder_decoder", False):
        family = getattr(config, "model_type", None)
        raise ValueError(f"model_type={family!r} has no one list of {count} layers")
    return min(lists, key=lambda name: name.count("."))


def stack_of(model: Any) -> nn.ModuleList:
    """The list of a model's layers; ValueError for a model without one."""
    stack: nn.ModuleList = model.get_submodule(stack_name(model))
    return stack


def config_of(shape: ModelShape, attention: str = "sdpa") -> Any:
    """The transformers config of a shape."""
    from transformers import AutoConfig

    if shape.config:
        config = configs.config_of(shape)
        config = configs.padded(config) if shape.kind == "encoder" else config
        return set_implementations(config, attention)
    apart = () if shape.family in GROUPED else ("kv_heads", "head_dim")
    sizes = {SIZES[n][0]: getattr(shape, n) for n in SIZES if n not in apart}
    if shape.family == "gpt2":
        sizes["n_inner"] = sizes.pop("intermediate_size")
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    options: dict[str, Any] = {**sizes, **ends, "attn_implementation": attention}
    return AutoConfig.for_model(shape.family, **options)


class DrawnInFp32(TorchDispatchMode):
    """While it is on, 16-bit tensors are filled with fp32 random numbers, rounded.

    So the same seed gives the same weights in every dtype, up to their rounding; on a
    CPU a part at a time is held in fp32. later: large ones of a CPU get theirs, the
    same, when they are asked for by `filled` or by another operation.
    """

    def __init__(self, later: bool = False) -> None:
        super().__init__()
        # One for all: what is freed is given to the next weight, as if it were there.
        self.scratch = torch.empty(PART, device="cpu") if later else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        aten = torch.ops.aten
        if func not in (aten.normal_.default, aten.uniform_.default):
            for each in args:
                filled(each)
            return func(*args, **(kwargs or {}))
        tensor, *how = args
        parts, own = _parts(tensor), isinstance(tensor, nn.Parameter)
        if self.scratch is None or len(parts) == 1 or not own:
            _draw(parts, func, how)
            return tensor
        tensor.later = partial(_redraw, tensor, func, how, torch.get_rng_state())
        for part in parts:  # as many are taken now
            func(self.scratch[: part.numel()], *how)
        return tensor


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """A tensor in parts that get the random numbers which the whole would get."""
    few = 0 < tensor.numel() % PART < VECTOR  # so few would be drawn another way
    if few or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return [tensor]
    return tensor.view(-1).split(PART)


def _draw(parts: Sequence[Tensor], func: Any, how: Any) -> None:
    for part in parts:
        part.copy_(func(torch.empty_like(part, dtype=torch.float32), *how))


def _redraw(tensor: Tensor, func: Any, how: Any, state: Tensor) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(state)
        _draw(_parts(tensor), func, how)


def filled(weight: Any) -> Any:
    """The weight with its values, if they were to come later."""
    if later := getattr(weight, "later", None):
        del weight.later
        with torch.no_grad():
            later()
    return weight


def trim() -> None:
    """Give what is free of this process back to the system, where that can be asked."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def build(point: Point, device: str = "cpu", later: bool = False) -> nn.Module:
    """The point's dense model with random weights, made on the device in its own dtype.

    The same seed gives the same weights on the same device, in 16 bits those of fp32
    rounded; the caller's random state is left alone. A quantized precision gives the
    dense model that shrink.recipes quantizes; later: most weights are not there yet,
    see `filled`. Raises ValueError for points with trained
    weights: `load` those.
    """
    if point.seed is None:
        raise ValueError(f"weights={point.weights!r}: only random ones can be built")
    if '"quantization_config"' in point.shape.config:
        why = "its weights are stored by quantization_config: they are predicted"
        raise ValueError(f"{point.shape.family}: {why}, and run from their own files")
    config = config_of(point.shape, implementation_of(point.recipe.attention))
    own = configs.model_class_of(point.shape)
    if config._attn_implementation == "sdpa" and not own._supports_sdpa:
        config._attn_implementation = "eager"
    dtype = DTYPES[point.recipe.format.dense]
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.device(device),
        DrawnInFp32(later),
    ):
        torch.manual_seed(point.seed)
        model: nn.Module = own._from_config(config, dtype=dtype)
        fit_experts(model)
    return model.eval().requires_grad_(False)


def implementation_of(attention: str) -> str:
    """transformers' name of a recipe's attention: sdpa-<kernel> is its sdpa."""
    return "flex_attention" if attention == "flex" else attention.partition("-")[0]


def set_implementations(config: Any, attention: str | None = None) -> Any:
    """The config with nothing that would make transformers fetch kernels from a hub.

    attention: transformers' name of one; None and sdpa = sdpa where the model has it.
    """
    config._attn_implementation = None if attention == "sdpa" else attention
    config._experts_implementation = None  # both also of the configs in it
    return config


@contextmanager
def numerics(precision: str) -> Iterator[None]:
    """Inference under a precision: tf32 or full fp32 products, autocast where named.

    autocast-<format>: torch.autocast on the CPU and on a GPU that is there; weights
    without gradient are cast anew in every call, which is part of what it costs.
    """
    matmul, cast = torch.backends.cuda.matmul, FORMATS[precision].autocast
    dtype, cuda = DTYPES[cast or "bf16"], torch.cuda.is_available()
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        with (
            torch.inference_mode(),
            torch.autocast("cpu", dtype, enabled=bool(cast)),
            torch.autocast("cuda", dtype, enabled=bool(cast) and cuda),
        ):
            yield
    finally:
        matmul.fp32_precision = before
