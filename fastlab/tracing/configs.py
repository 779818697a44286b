"""Which class of transformers a config means, and what that class does. Torch."""

from __future__ import annotations

import json
import math
from typing import Any

import transformers
from transformers.models.auto import modeling_auto as auto

from fastlab.spec.configs import CLASSES, class_named, has, sizes_of
from fastlab.spec.hub import in_one_line
from fastlab.spec.pruned import PER_LAYER, SHARED, SIZES, kinds_of, layer_sizes
from fastlab.spec.shape import ModelShape

MAPPINGS = (
    auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    auto.MODEL_FOR_MASKED_LM_MAPPING,
    auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    auto.MODEL_MAPPING,
)
READERS = ("EncoderModel", "Classification", "QuestionAnswering")


def text_config(config: Any) -> Any:
    """The part of a config that is about text: itself, or its nested one.

    Of a decoder beside an encoder with sizes of its own, the decoder's.
    """
    return config.get_text_config(decoder=True) if _nested(config) else config


def _nested(config: Any) -> bool:
    names = ("text_config", "text_encoder") + ("decoder",) * _apart(config)
    return any(hasattr(config, name) for name in names)


def _apart(config: Any) -> bool:
    """Whether an encoder and a decoder say their sizes apart."""
    both = getattr(config, "is_encoder_decoder", False)
    return both and not has(config, "hidden_size")


def class_of(config: Any, architecture: str = "") -> Any:
    """The model class that is asked for, that the config names, or that its type has.

    Of a model that also sees or hears, the class of its text part, where there is one.
    Raises ValueError for names that transformers does not have, and for models that
    read no text.
    """
    text = text_config(config)
    name = architecture or (getattr(config, "architectures", None) or [""])[0]
    named = class_named(name)
    if architecture and named is None:
        raise ValueError(f"architecture={architecture!r} is no class of transformers")
    if text is not config and not _apart(config):
        found = _mapped(text, MAPPINGS[:1]) or named or _mapped(text, MAPPINGS[1:])
    else:
        reads = getattr(config, "is_encoder_decoder", False)  # and then writes
        found = named or _mapped(config, MAPPINGS[2 * reads :])
    if found is None:
        raise ValueError(
            f"model_type={config.model_type!r} has no language model in transformers"
        )
    if getattr(found, "main_input_name", "input_ids") != "input_ids":
        reads = found.main_input_name
        raise ValueError(
            f"{found.__name__} reads {reads}, no text: fastlab counts text"
        )
    return found


def _mapped(config: Any, mappings: Any) -> Any:
    """The class of a type; one that has an encoder by birth is no decoder unasked."""
    encoder = encodes(config) or getattr(config, "is_encoder_decoder", False)
    for mapping in mappings:
        found = mapping.get(type(config), None)
        found = found[0] if isinstance(found, tuple) else found
        if found is not None and not (mapping is MAPPINGS[0] and encoder):
            return found
    return None


def kind_of(model_class: Any, config: Any) -> str:
    """ "decoder", "encoder-decoder", or "encoder": one that only reads.

    A decoder without a language head (a classifier, an embedding model) only reads.
    Half of an encoder-decoder is a class of its own; as a classifier both halves read.
    """
    name = model_class.__name__
    if getattr(config, "is_encoder_decoder", False):
        if name.endswith("ForCausalLM"):
            return "decoder"
        return "encoder" if name.endswith(READERS) else "encoder-decoder"
    writes = model_class.can_generate() and not encodes(config)
    return "decoder" if writes else "encoder"


def encodes(config: Any) -> bool:
    """Whether it is of a masked type, and not asked to be a decoder.

    GPT-NeoX has is_decoder=False as well, and writes all the same.
    """
    return type(config) in MAPPINGS[1] and not getattr(config, "is_decoder", False)


def padded(config: Any) -> Any:
    """The config with a token to pad with: what reads a batch may look for it."""
    if getattr(config, "pad_token_id", None) is None:
        for name in ("bos_token_id", "eos_token_id"):  # it is held against these
            if not hasattr(config, name):
                setattr(config, name, None)
        config.pad_token_id = 0
    return config


# Widths, and numbers of heads, that go with hidden where it is another.
_ALONG = {
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 8),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "lru_width"), 8),
    **dict.fromkeys(("shared_intermediate_size", "mamba_d_ssm"), 8),
    **dict.fromkeys(("mamba_n_heads", "n_mamba_heads", "attention_hidden_size"), 1),
}


def config_of(shape: ModelShape) -> Any:
    """The transformers config of a shape that has one, at the shape's own sizes.

    What a config says layer by layer is repeated or cut to the number of layers; other
    widths change in proportion to hidden, up to a multiple of 8.
    """
    data = json.loads(shape.config)
    config = transformers.AutoConfig.for_model(**data)
    text = text_config(config)
    before = sizes_of(text)
    for field, names in SIZES.items():
        wanted = getattr(shape, field)
        known = next((name for name in names if has(text, name)), None)
        if known is None or wanted == before[field]:
            continue
        with in_one_line(shape.family):
            if field == "layers":
                _cycle(text, before["layers"], wanted)
            setattr(text, known, wanted)
    pad = getattr(text, "pad_token_id", None)
    if isinstance(pad, int) and pad >= shape.vocab:
        text.pad_token_id = shape.vocab - 1
    if shape.hidden != before["hidden"]:
        if groups := getattr(text, "n_groups", 0):  # of Mamba's heads
            text.n_groups = math.gcd(groups, shape.heads)
        for name, step in _ALONG.items():  # 8 as kernels want it
            if isinstance(value := getattr(text, name, None), int):
                width = value * shape.hidden / before["hidden"]
                setattr(text, name, step * math.ceil(width / step))
    return config


def _cycle(config: Any, before: int, layers: int) -> None:
    """Repeat what a config says by layer, or cut it; no kind of layer is left out.

    Cut to the run with most kinds: of several the first if it has all, else the last.
    """
    if getattr(config, "attn_layer_period", 0) > layers:
        config.attn_layer_period, config.attn_layer_offset = layers, layers - 1
    told = kinds_of(config.to_dict(), before)
    if not told:
        return
    kinds = [str(one) for one in zip(*told.values(), strict=True)]
    starts = range(max(1, before - layers + 1))
    variety = [len({*kinds[n : n + layers]}) for n in starts]
    best = [n for n in starts if variety[n] == max(variety)]
    first = best[0 if max(variety) == len({*kinds}) else -1]
    sizes = layer_sizes(config, [(first + n) % before for n in range(layers)])
    if PER_LAYER in told:
        config.per_layer_config = None
    for name, value in sizes.items():
        setattr(config, name, value)
    if SHARED in told:  # what the last ones read is kept before them
        shared = sum(told[SHARED]) * layers // before
        while {*config.layer_types[: layers - shared]} != {*config.layer_types}:
            shared -= 1
        setattr(config, SHARED, shared)
    if names := getattr(config, "attention_layers", None):
        config.attention_types = [[list(names), 1]]


def model_class_of(shape: ModelShape) -> Any:
    """The class of transformers that a shape is built as."""
    told: Any = json.loads(shape.config) if shape.config else {}
    (name,) = told.get("architectures") or [CLASSES[shape.family]]
    return getattr(transformers, name)
