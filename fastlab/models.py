"""Point -> a torch model with random weights, and a call on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastlab.spec.formats import DENSE, FORMATS
from fastlab.spec.point import Point
from fastlab.spec.shape import GROUPED, ModelShape

DTYPES = {name: getattr(torch, FORMATS[name].dtype) for name in DENSE}


def stack_name(model: Any) -> str:
    """Dotted name of the list of a model's layers: as many as its config says.

    The outermost of several. Raises ValueError for a model without such a list.
    """
    config = getattr(model, "config", None)
    count = getattr(config, "num_hidden_layers", None)
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not lists or getattr(config, "is_encoder_decoder", False):
        family = getattr(config, "model_type", None)
        raise ValueError(f"model_type={family!r} has no one list of {count} layers")
    return min(lists, key=lambda name: name.count("."))


def stack_of(model: Any) -> nn.ModuleList:
    """The list of a model's layers; ValueError for a model without one."""
    stack: nn.ModuleList = model.get_submodule(stack_name(model))
    return stack


def config_sizes(shape: ModelShape) -> dict[str, int]:
    """The sizes of a shape by the names of its family's transformers config."""
    sizes = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "n_inner" if shape.family == "gpt2" else "intermediate_size": shape.ffn,
    }
    if shape.family in GROUPED:
        sizes |= {"num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim}
    return sizes


def config_of(shape: ModelShape, attention: str = "sdpa") -> Any:
    """The transformers config of a shape."""
    from transformers import AutoConfig

    options: dict[str, Any] = {
        **config_sizes(shape),
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_positions,
        "tie_word_embeddings": shape.tied,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        "attn_implementation": attention,
    }
    return AutoConfig.for_model(shape.family, **options)


class DrawnInFp32(TorchDispatchMode):
    """While it is on, 16-bit tensors are filled with fp32 random numbers, rounded.

    So the same seed gives the same weights in every dtype, up to their rounding. One
    tensor at a time is held in fp32.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        aten, half = torch.ops.aten, (torch.float16, torch.bfloat16)
        draws = func in (aten.normal_.default, aten.uniform_.default)
        if not draws or args[0].dtype not in half:
            return func(*args, **(kwargs or {}))
        wide = torch.empty_like(args[0], dtype=torch.float32)
        return args[0].copy_(func(wide, *args[1:], **(kwargs or {})))


def build(point: Point, device: str = "cpu") -> nn.Module:
    """The point's dense model with random weights, made on the device in its own dtype.

    The same seed gives the same weights on the same device, in 16 bits those of fp32
    rounded; the caller's random state is left alone. A quantized precision gives the
    dense model that shrink.recipes quantizes. Raises ValueError for points with trained
    weights: `load` those.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    if point.seed is None:
        raise ValueError(f"weights={point.weights!r}: only random ones can be built")
    is_bert = point.shape.family == "bert"
    auto = AutoModelForMaskedLM if is_bert else AutoModelForCausalLM
    config = config_of(point.shape, implementation_of(point.recipe.attention))
    dtype = DTYPES[point.recipe.format.dense]
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device), DrawnInFp32():
        torch.manual_seed(point.seed)
        model: nn.Module = auto.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def implementation_of(attention: str) -> str:
    """transformers' name of a recipe's attention: sdpa-<kernel> is its sdpa."""
    return "flex_attention" if attention == "flex" else attention.partition("-")[0]


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


def prompt_ids(point: Point, device: str) -> torch.Tensor:
    """Random token ids (batch, prompt_len), the same for every device and dtype."""
    work = point.workload
    source = torch.Generator().manual_seed(point.seed or 0)
    size = (work.batch, work.prompt_len)
    return torch.randint(point.shape.vocab, size, generator=source).to(device)


def prepare(
    model: nn.Module, point: Point, device: str = "cpu"
) -> Prefill | Decode | Generate:
    """The point's call on the model, ready to run: inputs made, cache filled."""
    ids, work = prompt_ids(point, device), point.workload
    cached = point.recipe.cache != "none"
    if work.phase == "generate":
        return Generate(model, ids, work.new_tokens, cached)
    if work.phase == "decode" and cached:
        return Decode(model, ids)
    if work.phase == "decode":
        ids = torch.cat([ids, ids[:, :1]], dim=1)
    if point.shape.family == "bert":
        return Prefill(model, ids, {})
    keep = 1 if work.phase == "decode" or work.logits == "last" else 0
    return Prefill(model, ids, {"use_cache": cached, "logits_to_keep": keep})


class Call:
    """What is timed: run() makes its inputs' output, reset() undoes what that changed.

    compile_s: seconds that compiling took, None where nothing was compiled.
    """

    compile_s: float | None = None

    def reset(self) -> None:
        """Nothing to undo: each run overwrites what the last one left."""


@dataclass
class Prefill(Call):
    """One forward pass over ids (batch, n) from an empty cache; returns the logits."""

    model: nn.Module
    ids: torch.Tensor
    options: dict[str, Any]

    def run(self) -> torch.Tensor:
        """Logits (batch, n or 1, vocab)."""
        return self.model(self.ids, **self.options).logits


def cache_name(model: nn.Module) -> str:
    """What forward() calls a KV cache, given and returned: `cache` from 5.24 on."""
    names = signature(model.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


@dataclass
class Decode(Call):
    """One new token per sequence after a cached prompt; the cache never grows.

    transformers' DynamicCache replaces its tensors when it appends, so that putting
    the prompt's own tensors back restores it without a copy.
    """

    model: nn.Module
    ids: torch.Tensor

    def __post_init__(self) -> None:
        with torch.inference_mode():
            out = self.model(self.ids, use_cache=True, logits_to_keep=1)
        self.name = cache_name(self.model)
        self.cache = out[self.name]
        self.token = out.logits[:, -1:].argmax(-1)
        self.kept = [(layer.keys, layer.values) for layer in self.cache.layers]

    def run(self) -> torch.Tensor:
        """Logits (batch, 1, vocab) of the position after the prompt's."""
        held = {self.name: self.cache}
        return self.model(self.token, use_cache=True, **held).logits

    def release(self) -> None:
        """Let go of the prompt's own tensors, which a real decode loop does not keep.

        For one last run whose peak memory is read; reset() does nothing from then on.
        """
        self.reset()
        self.kept = []

    def reset(self) -> None:
        """Drop the appended token from every layer's cache."""
        for layer, (keys, values) in zip(self.cache.layers, self.kept, strict=False):
            layer.keys, layer.values = keys, values


@dataclass
class Generate(Call):
    """Greedy generation of new_tokens tokens, without a host synchronisation each."""

    model: nn.Module
    ids: torch.Tensor
    new_tokens: int
    cached: bool = True
    cache: Any = None

    def run(self) -> torch.Tensor:
        """Token ids (batch, new_tokens)."""
        self.reset()
        tokens: list[torch.Tensor] = []
        name = cache_name(self.model)
        for _ in range(self.new_tokens):
            held: Any = {name: self.cache, "use_cache": self.cached}
            out = self.model(self._next(tokens), logits_to_keep=1, **held)
            self.cache = getattr(out, name)
            tokens.append(out.logits[:, -1:].argmax(-1))
        return torch.cat(tokens, dim=1)

    def reset(self) -> None:
        """Let go of the last run's cache; each run makes its own."""
        self.cache = None

    def _next(self, tokens: list[torch.Tensor]) -> torch.Tensor:
        if self.cached or not tokens:
            return tokens[-1] if tokens else self.ids
        return torch.cat([self.ids, *tokens], dim=1)
