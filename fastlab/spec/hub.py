"""Where a model's name leads: a folder or the hub; its shape, files and identity."""

from __future__ import annotations

import hashlib
import json
import math
import socket
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from fastlab.spec.checks import canonical, did_you_mean
from fastlab.spec.kept import keep, recall
from fastlab.spec.shape import PRESETS, ModelShape

CONFIG = "config.json"

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


# The class that a family's closed forms count.
_CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "bert": "BertForMaskedLM",
}
SIZES = {  # fields of a shape by what configs call them, the usual name first
    "layers": ("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    "hidden": ("hidden_size", "d_model", "n_embd"),
    "heads": ("num_attention_heads", "num_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim",),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "vocab": ("vocab_size",),
    "max_positions": ("max_position_embeddings", "n_positions", "max_seq_len"),
    "tied": ("tie_word_embeddings",),
}
# What says nothing about the operations of a model.
_NAMES = (
    *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "id2label"),
    *("label2id", "auto_map", "quantization_config", "_attn_implementation"),
)


def read_shape(source: Any, architecture: str = "") -> ModelShape:
    """The shape of a hub name, a local folder or a config; see ModelShape."""
    if not isinstance(source, (str, Path)):
        return _shape_of(source, architecture)
    check_source(source)
    file = Path(source) / CONFIG
    told = file.read_text(errors="replace") if file.is_file() else ""
    key = ["shape", told, architecture]
    if told and (kept := recall(key)):
        return ModelShape.from_dict(kept)
    shape = _shape_of(load_config(source), architecture)
    if told:
        keep(key, shape.to_dict())
    return shape


def load_config(source: str | Path) -> Any:
    """The transformers config of a folder or hub name; code of its own is never run.

    One that names no type has that of the class it names.
    """
    import transformers

    file = Path(source) / CONFIG
    data = json.loads(file.read_text()) if file.is_file() else {}
    if file.is_file() and "model_type" not in data:
        named = getattr(transformers, (data.get("architectures") or [""])[0], None)
        if named is not None:
            return named.config_class.from_dict(data)
    return transformers.AutoConfig.from_pretrained(str(source), trust_remote_code=False)


def type_shape(model_type: str) -> ModelShape:
    """The shape of a type's own defaults in transformers; ValueError for no type."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if model_type not in CONFIG_MAPPING:
        known = f"not one of {', '.join(_PLAIN)}, nor a model_type of transformers"
        near = did_you_mean(str(model_type), tuple(CONFIG_MAPPING))
        raise ValueError(f"family={model_type!r} is {known}{near}")
    return _shape_of(AutoConfig.for_model(model_type), "")


def _is_plain(config: Any, architecture: str) -> bool:
    """Whether the closed forms of a family count this model."""
    family = config.model_type
    named = architecture or (getattr(config, "architectures", None) or [""])[0]
    if family not in _PLAIN or named not in ("", _CLASSES[family]):
        return False
    options = _PLAIN[family].items()
    return all(getattr(config, name, plain) == plain for name, plain in options)


def local_folder(source: str | Path) -> Path:
    """The folder of a local model, or of a hub's, which is fetched where it must be.

    Raises OSError where neither can be had, ValueError for a folder without a model.
    """
    check_source(source, needs_weights=True)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.txt", "*.model"]
    return Path(snapshot_download(str(source), allow_patterns=wanted))


def weights_id(folder: str | Path) -> str:
    """ "trained:<sha256>" of a local folder's safetensors files; FileNotFoundError."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no .safetensors file")
    stats = [(str(file.resolve()), file.stat()) for file in files]
    return _weights_id(tuple((p, s.st_size, s.st_mtime_ns) for p, s in stats))


@lru_cache(maxsize=64)
def _weights_id(files: tuple[tuple[str, int, int], ...]) -> str:
    return f"trained:{sha256_of(*(Path(path) for path, _, _ in files))}"


def sha256_of(*files: Path) -> str:
    """sha256 of the files' bytes, one after the other, in hex."""
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            hashlib.file_digest(handle, lambda: sha)
    return sha.hexdigest()


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


def check_source(model: str | Path, needs_weights: bool = False) -> None:
    """Refuse at once a name that leads to no model.

    ValueError for a folder that is missing or holds no model, OSError for a hub name
    where the hub cannot be reached. Presets are named as a way out, unless weights are
    needed: they have none.
    """
    instead = "" if needs_weights else f"; presets are {', '.join(PRESETS)}"
    if Path(model).exists():
        _check_folder(Path(model))
    elif not _may_be_on_hub(str(model)):
        raise ValueError(
            f"model={str(model)!r}: no such folder{instead}; "
            "a hub name is owner/name, as openai-community/gpt2"
        )
    elif not _hub_answers(str(model)):
        shape_only = needs_weights and str(model) in PRESETS
        preset = "is a preset, which has no weights, " if shape_only else "is "
        raise OSError(
            f"model={str(model)!r} {preset}no folder here, and huggingface.co cannot "
            f"be reached: give the folder of a downloaded model{instead}"
        )


def _check_folder(folder: Path) -> None:
    if (folder / CONFIG).is_file():
        return
    if not folder.is_dir():
        raise ValueError(f"model={str(folder)!r} is a file; give the folder it is in")
    inside = sorted(str(path.parent) for path in folder.glob(f"*/{CONFIG}"))
    verb = "model is" if len(inside) == 1 else "models are"
    where = f": the {verb} in {', '.join(inside)}" if inside else ""
    raise ValueError(f"model={str(folder)!r} holds no {CONFIG}{where}")


def _may_be_on_hub(model: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True


def _hub_answers(model: str) -> bool:
    """Whether a model could come from the hub: kept here, or the hub can be reached."""
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(model, CONFIG), str):
        return True
    if constants.HF_HUB_OFFLINE:
        return False
    address = urlsplit(constants.ENDPOINT)
    if "https" in getproxies() or not address.hostname:
        return True  # only the proxy knows; the hub's own client says what is wrong
    try:
        socket.create_connection((address.hostname, address.port or 443), 3).close()
    except OSError:
        return False
    return True
