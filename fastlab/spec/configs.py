"""A transformers config -> the shape of its model: read, checked, kept. No torch."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastlab.spec import published
from fastlab.spec.checks import canonical, check_count, check_number, did_you_mean
from fastlab.spec.hub import CONFIG, OWN_CODE, check_source, in_one_line
from fastlab.spec.kept import keep, recall
from fastlab.spec.pruned import SIZES, pruned_config
from fastlab.spec.pruning import Pruning
from fastlab.spec.shape import ModelShape

# Options that change what a model costs and that the cost model does not know:
# the value each must have.
_PLAIN: dict[str, dict[str, Any]] = {
    "gpt2": {"add_cross_attention": False},
    "llama": {"attention_bias": False, "mlp_bias": False},
    "qwen3": {"attention_bias": False, "use_sliding_window": False},
    "bert": {
        **{"add_cross_attention": False, "is_decoder": False, "type_vocab_size": 2},
        "tie_word_embeddings": True,
    },
}


CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "bert": "BertForMaskedLM",
}
DEPTHS = (*SIZES["layers"], "encoder_layers")
# Whole numbers above zero; head_dim may be 0: it says another one then.
_SIZED = {*DEPTHS, *(name for names in SIZES.values() for name in names)}
_SIZED -= {"tie_word_embeddings"}  # the only one that is no number
QUANTIZED = "quantization_config"
# What says nothing about the operations of a model.
_NAMES = (
    *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "id2label"),
    *("label2id", "auto_map", "_attn_implementation", "return_dict", "torchscript"),
    *("output_attentions", "output_hidden_states", "use_cache"),
)


def read_shape(source: Any, architecture: str = "") -> ModelShape:
    """The shape of a hub name, a local folder or a config; see ModelShape."""
    if not isinstance(source, (str, Path)):
        with in_one_line(type(source).__name__):
            return _shape_of(source, architecture)
    check_source(source)
    file = Path(source) / CONFIG
    told = file.read_text(errors="replace") if file.is_file() else ""
    key = ["shape", told, architecture]
    if told and (kept := recall(key)):
        return ModelShape.from_dict(kept)
    config = read_config(source)
    with in_one_line(source):
        shape = _shape_of(config, architecture)
    if told:
        keep(key, shape.to_dict())
    return shape


def read_config(source: str | Path) -> Any:
    """The transformers config of a hub name or a local folder; no code of it is run.

    One that names no type has that of the class it names. OSError where it cannot be
    had, ValueError for nonsense, no sizes, code of its own.
    """
    check_source(source)
    import transformers

    with in_one_line(source):
        data, _ = transformers.PretrainedConfig.get_config_dict(str(source))
        said: dict[str, Any] = {}  # by name, of nested configs too
        json.loads(json.dumps(data), object_pairs_hook=said.update)
        _check_values(said)
        built = (data.get("architectures") or [""])[0]
        named = class_named(built)
        if data.get("auto_map") and named is None:
            raise ValueError(f"architectures={built!r} {OWN_CODE}")
        if "model_type" not in data and named is not None:
            config = named.config_class.from_dict(data)
        else:
            auto = transformers.AutoConfig
            config = auto.from_pretrained(str(source), trust_remote_code=False)
        _check_sizes(config, said)
    return config


def class_named(name: str) -> Any:
    """A class of transformers, whose code on a hub may write its name otherwise."""
    import transformers

    names = {known.lower(): known for known in dir(transformers)}
    return getattr(transformers, names.get(name.lower(), ""), None)


def _check_values(said: dict[str, Any]) -> None:
    """Refuse sizes that no model has, which transformers takes as they come."""
    for name, value in said.items():
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{name}=NaN must be a number")
        if name == "rope_theta":
            check_number(name, value)
        if name in _SIZED and not isinstance(value, list | dict | None):
            high = 1024 if name in DEPTHS else 2**31
            check_count(name, value, int(name != "head_dim"), high)


def _check_sizes(config: Any, said: dict[str, Any]) -> None:
    """Refuse a config that leaves its depth or width to the default of its class.

    But not what holds a model of text: hubs leave out of it what is usual there.
    """
    if "text_config" in said:
        return
    text = config.get_text_config()
    config = text if hasattr(text, "attribute_map") else config
    for name in ("num_hidden_layers", "hidden_size"):
        own = config.attribute_map.get(name, name)
        follows = isinstance(getattr(type(config), name, None), property)
        if hasattr(config, name) and not (follows or {name, own, "n_embed"} & {*said}):
            raise ValueError(f"{own} is not given: no default is this model's")


def type_shape(model_type: str) -> ModelShape:
    """The shape of a type's own defaults in transformers; ValueError for no type."""
    from transformers import AutoConfig

    check_family(model_type)
    with in_one_line(model_type):
        return _shape_of(AutoConfig.for_model(model_type), "")


def check_family(name: str) -> None:
    """Raise ValueError for what is no type of model that transformers has."""
    if name in _PLAIN:
        return
    from transformers import CONFIG_MAPPING

    if name not in CONFIG_MAPPING:
        known = f"not one of {', '.join(_PLAIN)}, nor a model_type of transformers"
        near = did_you_mean(str(name), (*_PLAIN, *CONFIG_MAPPING))
        raise ValueError(f"family={name!r} is {known}{near}")


def _is_plain(config: Any, architecture: str) -> bool:
    """Whether the closed forms of a family count this model."""
    family = config.model_type
    named = architecture or (getattr(config, "architectures", None) or [""])[0]
    if family not in _PLAIN or named not in ("", CLASSES[family]):
        return False
    if getattr(config, QUANTIZED, None):
        return False
    options = _PLAIN[family].items()
    return all(getattr(config, name, plain) == plain for name, plain in options)


def _shape_of(config: Any, architecture: str) -> ModelShape:
    if isinstance(inner := getattr(config, "text_config", None), dict):
        # a part that the type itself knows nothing of is the model
        from transformers import AutoConfig

        config = AutoConfig.for_model(**{"model_type": config.model_type, **inner})
    if _is_plain(config, architecture):
        return ModelShape(config.model_type, **sizes_of(config))
    from fastlab.tracing.configs import class_of, kind_of, text_config

    model_class = class_of(config, architecture)
    text = text_config(config)
    if model_class.config_class is not type(config):
        config = text
    told = {k: v for k, v in config.to_diff_dict().items() if k not in _NAMES}
    told |= {"model_type": config.model_type, "architectures": [model_class.__name__]}
    if stored := getattr(config, QUANTIZED, None):
        published.read(stored := dict(stored))  # what it says is checked
        told[QUANTIZED] = stored
    if config.num_labels != 2:  # the usual number, where names of labels say no other
        told["num_labels"] = config.num_labels
    kind = kind_of(model_class, config)
    return ModelShape(
        config.model_type, **sizes_of(text), kind=kind, config=canonical(_finite(told))
    )


def _finite(value: Any) -> Any:
    """Plain JSON: a limit of infinity as the largest number that fp32 has."""
    if isinstance(value, dict):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return math.copysign(3.4e38, value)
    return value


def sizes_of(config: Any) -> dict[str, Any]:
    """The fields of a shape as a config has them; 1 head where it knows of none."""
    found: dict[str, Any] = {f: _first(config, *names) for f, names in SIZES.items()}
    hidden, heads = found["hidden"], found["heads"] or 1
    usual = {
        "heads": heads,
        "kv_heads": heads,
        "head_dim": max(1, hidden // heads),
        "ffn": 4 * hidden,
        "max_positions": 2**20,
    }
    if getattr(config, "multi_query", False):
        usual["kv_heads"] = 1
    found |= {field: value for field, value in usual.items() if not found[field]}
    tied = bool(getattr(config, "tie_word_embeddings", False))
    return found | {"tied": tied}


def has(config: Any, name: str) -> bool:
    """Whether a config knows of an attribute, be it one that differs by layer."""
    try:
        return hasattr(config, name)
    except Exception:  # which is not for the asking
        return True


def _first(config: Any, *names: str) -> int | None:
    """The first of some attributes that is a number; the least of a list."""
    for name in names:
        try:
            value = getattr(config, name, None)
        except Exception:  # it differs from layer to layer
            value = object.__getattribute__(config, name)
        if isinstance(value, (list, tuple)) and value:
            value = min(value)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


@lru_cache(maxsize=1024)
def pruned_traced(shape: ModelShape, pruning: Pruning) -> ModelShape:
    """What pruning leaves of a shape that has a config; ValueError as pruned_config."""
    from fastlab.tracing.configs import config_of

    left = pruned_config(config_of(shape), pruning)
    return _shape_of(left, json.loads(shape.config)["architectures"][0])


def with_architecture(shape: ModelShape, architecture: str) -> ModelShape:
    """The shape of another class of the same config; ValueError where it has none."""
    from fastlab.tracing.configs import config_of

    if not shape.config:
        why = f"a preset of {shape.family} has no config: give a folder or hub name"
        raise ValueError(f"architecture={architecture!r}: {why}")
    return _shape_of(config_of(shape), architecture)
