"""Hub names and folders -> shapes, files and the identity of trained weights."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastlab.spec.shape import ModelShape
from fastlab.spec.sources import check_source

# Options that change what a model costs and that the cost model does not know:
# the value each must have.
_PLAIN: dict[str, dict[str, Any]] = {
    "gpt2": {"add_cross_attention": False},
    "llama": {"attention_bias": False, "mlp_bias": False},
    "qwen3": {"attention_bias": False, "use_sliding_window": False},
    "bert": {"add_cross_attention": False, "is_decoder": False, "type_vocab_size": 2},
}


def read_shape(source: Any) -> ModelShape:
    """The shape of a hub name, a local folder or a config; see ModelShape."""
    named = isinstance(source, (str, Path))
    config = _load(source) if named else source
    source = source if named else type(config).__name__
    family = getattr(config, "model_type", None)
    if family not in _PLAIN:
        raise ValueError(
            f"model_type={family!r} of {source} is not one of {', '.join(_PLAIN)}"
        )
    for name, plain in _PLAIN[family].items():
        value = getattr(config, name, plain)
        if value != plain:
            raise ValueError(f"{name}={value!r} of {source} must be {plain!r}")
    return _gpt2(config) if family == "gpt2" else _named(config)


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
            while block := handle.read(2**22):
                sha.update(block)
    return sha.hexdigest()


def _load(source: str | Path) -> Any:
    check_source(source)
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(source), trust_remote_code=False)


def _gpt2(config: Any) -> ModelShape:
    return ModelShape(
        "gpt2",
        config.n_layer,
        config.n_embd,
        heads=config.n_head,
        ffn=config.n_inner or 4 * config.n_embd,
        vocab=config.vocab_size,
        max_positions=config.n_positions,
        tied=config.tie_word_embeddings,
    )


def _named(config: Any) -> ModelShape:
    heads = config.num_attention_heads
    return ModelShape(
        config.model_type,
        config.num_hidden_layers,
        config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        ffn=config.intermediate_size,
        vocab=config.vocab_size,
        max_positions=config.max_position_embeddings,
        tied=config.tie_word_embeddings,
    )
