"""What transformers itself does with a config, beside what fastlab counts of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_outputs import BaseModelOutput

from fastlab.clock.peak import LiveBytes
from fastlab.cost.memory import kv_cache_bytes, parameters
from fastlab.cost.operations import total
from fastlab.spec import ModelShape, Point, Recipe, Workload
from fastlab.tracing.caches import cache_name
from fastlab.tracing.configs import class_of, text_config

BATCH = 2
MASKS = ("biogpt", "blenderbot", "marian")  # sdpa looks at the mask of a step


def point(shape: ModelShape, phase: str, length: int, precision: str = "bf16") -> Point:
    return Point(shape, Workload(phase, BATCH, length), Recipe(precision))


def counted(shape: ModelShape, length: int) -> dict[str, int]:
    """What fastlab says: parameters, FLOPs of both phases, the cache after each."""
    found = {"parameters": parameters(shape)}
    phases = ["prefill"] if shape.kind == "encoder" else ["prefill", "decode"]
    for phase in phases:
        asked = point(shape, phase, length)
        found[phase] = total(asked, "flops")
        if shape.kind == "decoder":
            found[f"{phase} cache"] = kv_cache_bytes(asked)
    return found


def model_of(config: Any, dtype: torch.dtype, device: str) -> Any:
    """The model as transformers builds it; on meta experts run as a batched product."""
    model_class = class_of(config)
    if model_class.config_class is not type(config):
        config = text_config(config)
    with torch.device(device):
        model = model_class._from_config(copy.deepcopy(config), dtype=dtype).eval()
    for part in (model.config, text_config(model.config)) if device == "meta" else ():
        part._experts_implementation_internal = "batched_mm"
    return model


def tensors(held: Any) -> Iterator[Tensor]:
    """Every tensor of numbers that a cache holds, wherever it keeps them."""
    if isinstance(held, Tensor):
        if held.dim():
            yield held
        return
    inner = [*held] if isinstance(held, list | tuple) else []
    inner = [*held.values()] if isinstance(held, dict) else inner
    for one in inner or getattr(held, "__dict__", {}).values():
        yield from tensors(one)


def done(config: Any, kind: str, length: int) -> dict[str, int]:
    """What transformers does on the meta device, all layers of it."""
    model = model_of(config, torch.bfloat16, "meta")
    if config.model_type in MASKS or config.is_encoder_decoder:
        model.config._attn_implementation = "eager"
    found = {"parameters": sum(p.numel() for p in model.parameters())}
    ids = torch.zeros(BATCH, length, dtype=torch.long, device="meta")
    name = cache_name(model)
    with torch.no_grad():
        with FlopCounterMode(display=False) as flops:
            if kind == "encoder-decoder":
                hidden = model.get_encoder()(ids)[0]
            else:
                more = {} if kind == "encoder" else {"use_cache": True}
                out = model(ids, **more)
        found["prefill"] = flops.get_total_flops()
        if kind == "encoder":
            return found
        given: dict[str, Any] = {"use_cache": True}
        if kind == "encoder-decoder":
            given |= {"encoder_outputs": BaseModelOutput(hidden)}
            out = model(decoder_input_ids=ids, **given)
        else:
            found["prefill cache"] = sum(x.nbytes for x in tensors(out[name]))
        given |= {name: out[name]}
        key = "input_ids" if kind == "decoder" else "decoder_input_ids"
        with FlopCounterMode(display=False) as flops:
            out = model(**{key: ids[:, :1]}, **given)
    found["decode"] = flops.get_total_flops()
    if kind == "decoder":
        found["decode cache"] = sum(x.nbytes for x in tensors(out[name]))
    return found


def held(config: Any, kind: str, length: int) -> dict[str, int]:
    """Most bytes alive at once on the CPU in fp32 beside the weights, by phase."""
    model = model_of(config, torch.float32, "cpu").requires_grad_(False)
    ids = torch.zeros(BATCH, length, dtype=torch.long)
    own = [*model.parameters(), *model.buffers()]
    name, found = cache_name(model), {}
    more = {} if kind == "encoder" else {"use_cache": True}
    with torch.no_grad():
        with LiveBytes([own, ids]) as live:
            out = model(ids, **more)
        weights = sum(x.nbytes for x in {id(x): x for x in own}.values())
        found["prefill"] = live.peak - weights
        if kind == "encoder":
            return found
        cache = out[name]
        del out
        model(ids[:, :1], use_cache=True, **{name: cache})  # lets go what windows drop
        with LiveBytes([own, ids, [*tensors(cache)]]) as live:
            model(ids[:, :1], use_cache=True, **{name: cache})
        found["decode"] = live.peak - weights
    return found
