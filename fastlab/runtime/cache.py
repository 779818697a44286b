"""Static KV caches: allocated once, written in place, of a known number of bytes.

All layers share one position, so that a decode step moves it once and not once a layer;
`Place` holds it as a tensor, which a compiled step and a CUDA graph can move.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, StaticLayer

from fastlab.spec.checks import check_choice, check_count
from fastlab.spec.engines import STATIC
from fastlab.spec.recipe import bucket


class Place:
    """Where the next keys and values go.

    position: a tensor () with the number of positions cached. past: the same as a
    number while the host knows it (prefill), None while only the device does (decode).
    """

    def __init__(self, positions: int, device: torch.device | str) -> None:
        self.positions = positions  # at most; steps beyond overwrite the last
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        self.past: int | None = 0

    def rows(self, new: int) -> torch.Tensor:
        """Indices (new,) of the rows to write."""
        if self.past is not None:
            return torch.arange(self.past, self.past + new, device=self.position.device)
        steps = torch.arange(new, device=self.position.device)
        return (self.position + steps).clamp(max=self.positions - 1)


class PlainLayer(StaticLayer):
    """Keys and values (batch, kv_heads, length, head_dim) as they come."""

    keys: torch.Tensor
    values: torch.Tensor

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
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
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

    def read(self, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the rows before `end`, in the model's dtype."""
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _kinds(self, size: tuple[int, ...]) -> list[Any]:
        """Shape and dtype of each buffer."""
        return [(size, self.dtype)] * 2

    def _packed(self, keys: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
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

    kind, most = torch.int8, 127.0

    def _kinds(self, size: tuple[int, ...]) -> list[Any]:
        return [(size, torch.uint8)] * 2 + [((*size[:3], 1), torch.float32)] * 2

    def _packed(self, keys: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
        packed, scales = [], []
        for x in (keys.float(), values.float()):
            scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / self.most
            scaled = x / scale if self.kind.is_floating_point else (x / scale).round()
            packed.append(scaled.to(self.kind).view(torch.uint8))
            scales.append(scale)
        return packed + scales

    def read(self, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the rows before `end`, in the model's dtype."""
        parts = [buffer[:, :, :end] for buffer in self.buffers]
        keys, values = (
            (held.view(self.kind).float() * scale).to(self.dtype)
            for held, scale in zip(parts[:2], parts[2:], strict=True)
        )
        return keys, values


class Fp8Layer(Int8Layer):
    """The same in fp8 (e4m3), with scales of max |x| / 448."""

    kind, most = torch.float8_e4m3fn, 448.0


LAYERS = {"static": PlainLayer, "static-int8": Int8Layer, "static-fp8": Fp8Layer}


class StaticKV(Cache):
    """A transformers cache of static layers that share one place.

    buffers: every tensor that holds keys, values or scales, layer by layer. length:
    rows of each, the bucket.
    """

    def __init__(self, layers: list[PlainLayer], place: Place) -> None:
        super().__init__(layers=list(layers))
        self.place, self.length = place, layers[0].max_cache_len
        self.buffers = [buffer for layer in layers for buffer in layer.buffers]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(buffer.nbytes for buffer in self.buffers)


class State:
    """What a step reads and moves: the last token (batch, 1) and all tokens so far.

    tokens (batch, max_len + 2): column p holds the token at position p; what steps
    beyond the end write goes to the last column, which nobody reads.
    """

    def __init__(self, cache: StaticKV, batch: int) -> None:
        zeros = cache.place.position.new_zeros
        self.token = zeros(batch, 1)
        self.tokens = zeros(batch, cache.place.positions + 2)

    def put(self, token: torch.Tensor, position: torch.Tensor) -> None:
        """Note `token` (batch, 1) as the one after `position` ()."""
        self.token.copy_(token)
        column = (position + 1).clamp(max=self.tokens.shape[1] - 1)
        self.tokens.index_copy_(1, column.view(1), token)


def static_cache(
    model: nn.Module, batch: int, positions: int, cache: str = "static"
) -> StaticKV:
    """A cache of `bucket(positions)` rows for `batch` sequences, on the model's device.

    Its bytes are 2 x layers x batch x kv_heads x bucket(positions) x
    `kv_row_bytes(cache, ...)`. ValueError for another cache or a count below one.
    """
    check_choice("cache", cache, STATIC)
    check_count("batch", batch)
    check_count("positions", positions)
    dtype, device = dtype_of(model), next(model.parameters()).device
    layers, heads, width = kv_sizes(model.config)
    place = Place(positions, device)
    size = (batch, heads, bucket(positions), width)
    return StaticKV([LAYERS[cache](place, size, dtype) for _ in range(layers)], place)


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
