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
from fastlab.spec.recipe import STATIC, bucket, kv_row_bytes

FP8 = torch.float8_e4m3fn
FP8_MAX, INT8_MAX = 448.0, 127.0


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
        self.place, self.size, self.dtype = place, size, dtype
        self.device = place.position.device
        self.buffers = self._allocated(size)
        self.keys, self.values = self.buffers[:2]
        self.is_initialized = True

    def _allocated(self, size: tuple[int, ...]) -> list[torch.Tensor]:
        return [self._zeros(size, self.dtype), self._zeros(size, self.dtype)]

    def _zeros(self, size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(size, dtype=dtype, device=self.device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (batch, kv_heads, new, head_dim) in place; what attention reads.

        From an empty cache the new ones themselves, else all rows up to the last that
        the host knows to be filled.
        """
        new, past = key_states.shape[2], self.place.past
        self.write(self.place.rows(new), key_states, value_states)
        if past == 0:
            return key_states, value_states
        return self.read(self.max_cache_len if past is None else past + new)

    def write(self, rows: torch.Tensor, keys: Any, values: Any) -> None:
        """Put keys and values into the rows."""
        self.keys.index_copy_(2, rows, keys.to(self.dtype))
        self.values.index_copy_(2, rows, values.to(self.dtype))

    def read(self, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the rows before `end`, views."""
        return self.keys[:, :, :end], self.values[:, :, :end]

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
    """Keys and values in int8, one fp32 scale a token and head: max |x| / 127."""

    stored = torch.int8

    def __init__(self, place: Place, size: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__(place, size, dtype)
        self.key_scales, self.value_scales = self.buffers[2:]

    def _allocated(self, size: tuple[int, ...]) -> list[torch.Tensor]:
        scale = (*size[:3], 1)
        kinds = [(size, self.stored)] * 2 + [(scale, torch.float32)] * 2
        return [self._zeros(*kind) for kind in kinds]

    def write(self, rows: torch.Tensor, keys: Any, values: Any) -> None:
        """Quantize keys and values into the rows."""
        for new, held, scales in (
            (keys, self.keys, self.key_scales),
            (values, self.values, self.value_scales),
        ):
            packed, scale = self._quantized(new.float())
            held.index_copy_(2, rows, packed)
            scales.index_copy_(2, rows, scale)

    def read(self, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the rows before `end`, in the model's dtype."""
        pairs = ((self.keys, self.key_scales), (self.values, self.value_scales))
        keys, values = (
            (self._numbers(held[:, :, :end]) * scale[:, :, :end]).to(self.dtype)
            for held, scale in pairs
        )
        return keys, values

    def _quantized(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = _scale(x, INT8_MAX)
        return (x / scale).round().to(torch.int8), scale

    def _numbers(self, held: torch.Tensor) -> torch.Tensor:
        return held.float()


class Fp8Layer(Int8Layer):
    """Keys and values in fp8 (e4m3), one fp32 scale for each token and head.

    The bytes are held as uint8: not every operation that moves them knows fp8.
    """

    stored = torch.uint8

    def _quantized(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = _scale(x, FP8_MAX)
        return (x / scale).to(FP8).view(torch.uint8), scale

    def _numbers(self, held: torch.Tensor) -> torch.Tensor:
        return held.view(FP8).float()


def _scale(x: torch.Tensor, most: float) -> torch.Tensor:
    return x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / most


LAYERS = {"static": PlainLayer, "static-int8": Int8Layer, "static-fp8": Fp8Layer}


class StaticKV(Cache):
    """A transformers cache of static layers that share one place."""

    def __init__(self, layers: list[PlainLayer], place: Place) -> None:
        super().__init__(layers=list(layers))
        self.place = place

    @property
    def buffers(self) -> list[torch.Tensor]:
        """Every tensor that holds keys, values or scales, layer by layer."""
        return [held for layer in self.layers for held in _static(layer).buffers]

    @property
    def length(self) -> int:
        """Rows of each buffer: the bucket."""
        return _static(self.layers[0]).max_cache_len

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(held.nbytes for held in self.buffers)


def _static(layer: Any) -> PlainLayer:
    assert isinstance(layer, PlainLayer)
    return layer


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
    made = [LAYERS[cache](place, size, dtype) for _ in range(layers)]
    return StaticKV(made, place)


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


def cache_bytes(
    config: Any, batch: int, positions: int, cache: str, value_bytes: int
) -> int:
    """Bytes of a static cache, by the formula in `static_cache`."""
    layers, heads, width = kv_sizes(config)
    row = kv_row_bytes(cache, value_bytes, width)
    return 2 * layers * batch * heads * bucket(positions) * row
