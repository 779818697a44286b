"""What a model keeps of the past, and whether a static cache can hold it. Torch."""

from __future__ import annotations

from inspect import signature
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicCache,
    StaticCache,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from fastlab.tracing.configs import encodes

CACHES = ("cache", "past_key_values", "cache_params", "state")


def cache_name(model: Any) -> str:
    """What forward() calls what it keeps of the past, given and returned.

    `cache` from transformers 5.24 on; a state of its own has a name of its own. "" for
    a model that keeps nothing.
    """
    names = signature(model.forward).parameters
    return next((name for name in CACHES if name in names), "")


def static_layers(config: Any) -> list[Any]:
    """The layers of transformers' own static cache; none of them is allocated."""
    return list(StaticCache(config=config, max_cache_len=1).layers)


def keeps(layer: Any) -> bool:
    """Whether a layer of transformers' keeps keys and values by position, no more."""
    return type(layer) in (StaticLayer, StaticSlidingWindowLayer)


def attends(config: Any) -> bool:
    """Whether transformers' cache of a model keeps keys and values in any layer."""
    return any(
        isinstance(x, CacheLayerMixin) for x in DynamicCache(config=config).layers
    )


def static_cache_reason(model_or_config: Any) -> str | None:
    """Why a transformers model, or that of a config, decodes with no static cache.

    None where it can: a causal decoder, all of whose layers keep keys and values of
    positions, or nothing, and whose attention goes by the mask that it is given.
    """
    config, model = getattr(model_or_config, "config", model_or_config), model_or_config
    if model is config:
        model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if why := _reason(model, config):
        return f"model_type={config.model_type!r} has no static cache: {why}"
    return None


def _reason(model: Any, config: Any) -> str | None:
    text = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    if model is None or not model.can_generate():
        return "it is no causal language model"
    if encodes(text):
        return "it is an encoder"
    if not cache_name(model):
        return "it keeps nothing of the past"
    if model._is_stateful or cache_name(model) not in ("cache", "past_key_values"):
        return "it keeps a state that is not keys and values"
    try:
        others = [layer for layer in static_layers(config) if not keeps(layer)]
    except KeyError as error:
        return f"transformers has no static cache of {error} layers"
    kinds = {type(layer).__name__ for layer in others} - {"DummyLayer"}
    if kinds:
        return f"some of its layers keep other things ({', '.join(sorted(kinds))})"
    if not (model._can_compile_fullgraph or model._supports_attention_backend):
        return "its attention is not made for one"
    return None
