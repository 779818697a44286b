"""Static KV caches: allocated once, written in place, of a known number of bytes.

All layers share one position, so that a decode step moves it once and not once a layer;
`Place` holds it as a tensor, which a compiled step and a CUDA graph can move.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, StaticLayer

from fastlab.shrink.kernels import rounded_rows
from fastlab.spec.checks import check_choice, check_count
from fastlab.spec.engines import STATIC
from fastlab.spec.recipe import bucket


class Place:
    """Where the next keys and values go, and the tokens up to there.

    position: a tensor () with the number of positions cached. past: the same as a
    number while the host knows it (prefill), None while only the device does (decode).
    token (batch, 1): the last one. tokens (batch, positions + 2): column p holds the
    token at position p; what steps beyond the end write goes to the last column, which
    nobody reads.
    """

    def __init__(self, batch: int, positions: int, device: Any) -> None:
        self.positions = positions  # at most; steps beyond overwrite the last
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        self.past: int | None = 0
        self.token = self.position.new_zeros(batch, 1)
        self.tokens = self.position.new_zeros(batch, positions + 2)

    def rows(self, new: int) -> Tensor:
        """Indices (new,) of the rows to write."""
        if self.past is not None:
            return torch.arange(self.past, self.past + new, device=self.position.device)
        steps = torch.arange(new, device=self.position.device)
        return (self.position + steps).clamp(max=self.positions - 1)

    def put(self, token: Tensor, position: Tensor) -> None:
        """Note `token` (batch, 1) as the one after `position` ()."""
        self.token.copy_(token)
        column = (position + 1).clamp(max=self.tokens.shape[1] - 1)
        self.tokens.index_copy_(1, column.view(1), token)


class PlainLayer(StaticLayer):
    """Keys and values (batch, kv_heads, length, head_dim) as they come."""

    keys: Tensor
    values: Tensor

    def __init__(self, place: Place, size: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__(max_cache_len=size[2])
        self.place, self.dtype = place, dtype
        self.buffers = [
            torch.zeros(*shape, dtype=kind, device=place.position.device)
            for shape, kind in self._kinds(size)
        ]
        self.keys, self.values = self.buffers[:2]
        self.device, self.is_initialized = place.position.device, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (batch, kv_heads, new, head_dim) in place; what attention reads.

        From an empty cache the new ones themselves, else all rows up to the last that
        the host knows to be filled.
        """
        rows = self.place.rows(key_states.shape[2])
        new = self._packed(key_states, value_states)
        for buffer, part in zip(self.buffers, new, strict=True):
            buffer.index_copy_(2, rows, part)
        if self.place.past == 0:
            return key_states, value_states
        return self.read(self.get_mask_sizes(key_states.shape[2])[0])

    def read(self, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the rows before `end`, in the model's dtype."""
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _kinds(self, size: tuple[int, ...]) -> list[Any]:
        """Shape and dtype of each buffer."""
        return [(size, self.dtype)] * 2

    def _packed(self, keys: Tensor, values: Tensor) -> list[Tensor]:
        """What goes into the rows of each buffer."""
        return [keys.to(self.dtype), values.to(self.dtype)]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that attention reads, and the position of the first: 0."""
        past = self.place.past
        return (self.max_cache_len if past is None else past + query_length), 0

    def get_seq_length(self) -> Any:
        """Positions cached: a number where the host knows it, else a tensor."""
        return self.place.position if self.place.past is None else self.place.past

    def reset(self) -> None:
        """Nothing: rows beyond the position are never read."""


class Int8Layer(PlainLayer):
    """Keys and values in int8, one fp32 scale a token and head: max |x| / 127.

    Bytes are held as uint8: not every operation that moves them knows fp8.
    """

    kind = torch.int8

    def _kinds(self, size: tuple[int, ...]) -> list[Any]:
        return [(size, torch.uint8)] * 2 + [((*size[:3], 1), torch.float32)] * 2

    def _packed(self, keys: Tensor, values: Tensor) -> list[Tensor]:
        packed, scales = [], []
        for x in (keys, values):
            codes, scale = rounded_rows(x, self.kind)
            packed.append(codes.view(torch.uint8))
            scales.append(scale)
        return packed + scales

    def read(self, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the rows before `end`, in the model's dtype."""
        parts = [buffer[:, :, :end] for buffer in self.buffers]
        keys, values = (
            (held.view(self.kind).float() * scale).to(self.dtype)
            for held, scale in zip(parts[:2], parts[2:], strict=True)
        )
        return keys, values


class Fp8Layer(Int8Layer):
    """The same in fp8 (e4m3), with scales of max |x| / 448."""

    kind = torch.float8_e4m3fn


LAYERS = {"static": PlainLayer, "static-int8": Int8Layer, "static-fp8": Fp8Layer}


class StaticKV(Cache):
    """A cache for transformers on the model's device; its layers share one place.

    buffers: every tensor that holds keys, values or scales, layer by layer. length:
    rows of each, `bucket(positions)`. Its bytes are 2 x layers x batch x kv_heads x
    length x `kv_row_bytes(cache, ...)`. ValueError for another cache or a count below
    one.
    """

    def __init__(
        self, model: nn.Module, batch: int, positions: int, cache: str = "static"
    ) -> None:
        check_choice("cache", cache, STATIC)
        check_count("batch", batch)
        check_count("positions", positions)
        dtype, device = dtype_of(model), next(model.parameters()).device
        count, heads, width = kv_sizes(model.config)
        self.place, self.length = Place(batch, positions, device), bucket(positions)
        size = (batch, heads, self.length, width)
        layers = [LAYERS[cache](self.place, size, dtype) for _ in range(count)]
        super().__init__(layers=[*layers])
        self.buffers = [buffer for layer in layers for buffer in layer.buffers]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(buffer.nbytes for buffer in self.buffers)


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of a model's activations, as its norms have it, quantized or not."""
    for module in model.modules():
        if "norm" in type(module).__name__.lower():
            return module.weight.dtype  # type: ignore[return-value]
    raise ValueError(f"model={type(model).__name__} has no norm to tell its dtype by")


def kv_sizes(config: Any) -> tuple[int, int, int]:
    """Layers, heads of keys and values, and their width, from a transformers config."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return config.num_hidden_layers, kv_heads, width
