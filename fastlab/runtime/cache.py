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
from fastlab.tracing.caches import cache_name, keeps, static_cache_reason, static_layers


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
    """Keys and values (batch, kv_heads, length, width) as they come.

    Allocated when the first ones come, which tell heads and widths. A layer that sees
    a window of the past keeps all of it, so that a prefix of any length can be reused.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, place: Place, length: int, dtype: torch.dtype) -> None:
        super().__init__(max_cache_len=length)
        self.place, self.dtype = place, dtype
        self.buffers: list[Tensor] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for such keys and values (batch, kv_heads, any, width)."""
        sizes = [
            (*x.shape[:2], self.max_cache_len, x.shape[3])
            for x in (key_states, value_states)
        ]
        self.buffers = [
            torch.zeros(*shape, dtype=kind, device=key_states.device)
            for shape, kind in self._kinds(sizes)
        ]
        self.keys, self.values = self.buffers[:2]
        self.device, self.is_initialized = key_states.device, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (batch, kv_heads, new, width) in place; what attention reads.

        From an empty cache the new ones themselves, else all rows up to the last that
        the host knows to be filled.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
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

    def _kinds(self, sizes: list[Any]) -> list[Any]:
        """Shape and dtype of each buffer, for the sizes of keys and values."""
        return [(size, self.dtype) for size in sizes]

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

    def _kinds(self, sizes: list[Any]) -> list[Any]:
        scales = [((*size[:3], 1), torch.float32) for size in sizes]
        return [(size, torch.uint8) for size in sizes] + scales

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

    One token goes through the model, so that every layer that keeps keys and values
    allocates them. buffers: every tensor that holds keys, values or scales, layer by
    layer. length: rows of each, `bucket(positions)`. Its bytes are batch x length x
    `kv_row_bytes(cache, ...)` of each head of keys and of values in each layer.
    ValueError for another cache, a count below one, or a model of which there is a
    `static_cache_reason`.
    """

    def __init__(
        self, model: nn.Module, batch: int, positions: int, cache: str = "static"
    ) -> None:
        check_choice("cache", cache, STATIC)
        check_count("batch", batch)
        check_count("positions", positions)
        if reason := static_cache_reason(model):
            raise ValueError(reason)
        dtype, device = dtype_of(model), next(model.parameters()).device
        self.place, self.length = Place(batch, positions, device), bucket(positions)
        super().__init__(
            layers=[
                LAYERS[cache](self.place, self.length, dtype) if keeps(layer) else layer
                for layer in static_layers(model.config)
            ]
        )
        with torch.no_grad():
            model(self.place.token, use_cache=True, **{cache_name(model): self})
        held = [layer for layer in self.layers if isinstance(layer, PlainLayer)]
        self.buffers = [buffer for layer in held for buffer in layer.buffers]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(buffer.nbytes for buffer in self.buffers)


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of a model's activations, as its norms have it, quantized or not.

    Where no norm has weights, that of its first weight in floating point.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is not None and "norm" in type(module).__name__.lower():
            return weight.dtype
    return next(x.dtype for x in model.parameters() if x.is_floating_point())
