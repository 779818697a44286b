"""ModelShape: the sizes of a transformer, and the presets. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastlab.spec.checks import check_choice, check_count, make

FAMILIES = ("gpt2", "llama", "qwen3", "bert")

# What a family brings when nothing is said: the defaults of its transformers config.
_VOCAB = {"gpt2": 50257, "llama": 32000, "qwen3": 151936, "bert": 30522}
_POSITIONS = {"gpt2": 1024, "llama": 131072, "qwen3": 40960, "bert": 512}
_TIED = {"gpt2": True, "llama": False, "qwen3": False, "bert": True}
LEARNED_POSITIONS = ("gpt2", "bert")  # the others rotate (RoPE), without parameters
MAIN = ("family", "layers", "hidden")
HEAD_FIELDS = {"heads", "kv_heads", "head_dim"}
OPTIONAL = ("heads", "kv_heads", "head_dim", "ffn", "vocab", "max_positions", "tied")
GROUPED = ("llama", "qwen3")  # families whose config knows kv_heads and head_dim


def default_head_dim(hidden: int) -> int:
    """Width of a head: 64 where it divides `hidden`, else the widest even divisor."""
    widths = [d for d in range(2, 65, 2) if hidden % d == 0]
    return widths[-1] if widths else hidden


def default_ffn(family: str, hidden: int) -> int:
    """Width of the MLP: 4H (gpt2, bert), 3H (qwen3), 8H/3 up to a multiple of 256."""
    if family == "llama":  # as in the LLaMA paper's code: 4096 -> 11008
        return 256 * math.ceil(8 * hidden / 3 / 256)
    return 3 * hidden if family == "qwen3" else 4 * hidden


def _shape_defaults(family: str, hidden: int, head_dim: int) -> dict[str, Any]:
    heads = max(1, hidden // head_dim) if head_dim else 1
    return {
        "heads": heads,
        "kv_heads": heads,
        "head_dim": head_dim,
        "ffn": default_ffn(family, hidden),
        "vocab": _VOCAB[family],
        "max_positions": _POSITIONS[family],
        "tied": _TIED[family],
    }


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a transformer; whatever is left None follows from family and hidden.

    hidden = width of the residual stream, head_dim = width of one head, kv_heads =
    heads of keys and values (GQA), ffn = width of the MLP, tied = the output head is
    the embedding table. Raises ValueError naming the field, its value and what is
    allowed.
    """

    family: str
    layers: int
    hidden: int
    heads: int = None  # type: ignore[assignment]
    kv_heads: int = None  # type: ignore[assignment]
    head_dim: int = None  # type: ignore[assignment]
    ffn: int = None  # type: ignore[assignment]
    vocab: int = None  # type: ignore[assignment]
    max_positions: int = None  # type: ignore[assignment]
    tied: bool = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        check_choice("family", self.family, FAMILIES)
        check_count("layers", self.layers, high=1024)
        check_count("hidden", self.hidden, low=2, high=2**20)
        for name, value in self._defaults().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._check()

    def _defaults(self) -> dict[str, Any]:
        """What each optional field is when it is not given (given ones help decide)."""
        head_dim = default_head_dim(self.hidden)
        if self.head_dim is not None:
            head_dim = self.head_dim
        elif isinstance(self.heads, int) and self.heads > 0:
            head_dim = max(1, self.hidden // self.heads)
        values = _shape_defaults(self.family, self.hidden, head_dim)
        return values | ({"kv_heads": self.heads} if self.heads is not None else {})

    def _check(self) -> None:
        for name in ("heads", "kv_heads", "head_dim", "ffn", "vocab", "max_positions"):
            check_count(name, getattr(self, name))
        if not isinstance(self.tied, bool):
            raise ValueError(f"tied={self.tied!r} must be true or false")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads={self.kv_heads} must divide heads={self.heads} (GQA groups)"
            )
        if self.family in GROUPED:
            if self.head_dim % 2:
                raise ValueError(f"head_dim={self.head_dim} must be even (RoPE pairs)")
            if self.family == "llama" and self.hidden % self.heads:
                raise ValueError(
                    f"heads={self.heads} must divide hidden={self.hidden} in llama"
                )
        else:
            self._check_ungrouped()

    def _check_ungrouped(self) -> None:
        if self.heads * self.head_dim != self.hidden:
            raise ValueError(
                f"heads={self.heads} x head_dim={self.head_dim} must equal "
                f"hidden={self.hidden} in family {self.family}"
            )
        if self.kv_heads != self.heads:
            raise ValueError(
                f"kv_heads={self.kv_heads} must equal heads={self.heads}: "
                f"{self.family} has no GQA"
            )
        if self.family == "bert" and not self.tied:
            raise ValueError("tied=False is not allowed: bert's head is its embedding")

    @classmethod
    def of(cls, family: str, layers: int, hidden: int, **over: Any) -> ModelShape:
        """A shape by its three main numbers, anything else by name."""
        return make(cls, {"family": family, "layers": layers, "hidden": hidden, **over})

    @classmethod
    def preset(cls, name: str) -> ModelShape:
        """A shape by its name in PRESETS; raises ValueError listing the names."""
        check_choice("model", name, PRESETS)
        return PRESETS[name]

    @classmethod
    def from_config(cls, source: Any) -> ModelShape:
        """The shape of a hub model, a local folder or a transformers config object.

        Raises ValueError for families or options that the cost model does not know.
        """
        from fastlab.spec.hub import read_shape

        return read_shape(source)

    def to_dict(self) -> dict[str, Any]:
        """Canonical fields: those which differ from what would follow by themselves.

        The three head fields decide each other, so they are kept or left out together.
        """
        usual = _shape_defaults(self.family, self.hidden, default_head_dim(self.hidden))
        said = {name for name in OPTIONAL if getattr(self, name) != usual[name]}
        if said & HEAD_FIELDS:
            said |= HEAD_FIELDS
        kept = [*MAIN, *(name for name in OPTIONAL if name in said)]
        return {name: getattr(self, name) for name in kept}


def find_shape(model: str, over: Mapping[str, Any] | None = None) -> ModelShape:
    """A preset, a local folder or a hub name (one with a slash), with overrides."""
    looks_remote = "/" in model or Path(model).is_dir()
    if model in PRESETS or not looks_remote:
        shape = ModelShape.preset(model)
    else:
        shape = ModelShape.from_config(model)
    return override(shape, dict(over or {}))


def override(shape: ModelShape, over: dict[str, Any]) -> ModelShape:
    """`shape` with fields replaced; a new hidden lets what follows from it follow."""
    if "hidden" in over or "family" in over:
        kept: dict[str, Any] = {
            "family": shape.family,
            "layers": shape.layers,
            "hidden": shape.hidden,
        }
        kept |= {"vocab": shape.vocab, "tied": shape.tied}
        kept |= {"max_positions": shape.max_positions}
        return ModelShape(**(kept | over))
    if "heads" in over and "head_dim" not in over and shape.family not in GROUPED:
        over = {"head_dim": None, **over}
    if "heads" in over and "kv_heads" not in over:
        over = {"kv_heads": None, **over}
    return replace(shape, **over)


# Published configurations: head counts and widths as in each model's config.json.
PRESETS: dict[str, ModelShape] = {
    "article": ModelShape("gpt2", 12, 768),  # with prompt_len 1024, its worked case
    "gpt2": ModelShape("gpt2", 12, 768),
    "bert": ModelShape("bert", 12, 768),
    "llama-3.2-1b": ModelShape(
        "llama", 16, 2048, kv_heads=8, ffn=8192, vocab=128256, tied=True
    ),
    "llama-3.1-8b": ModelShape(
        "llama", 32, 4096, kv_heads=8, head_dim=128, ffn=14336, vocab=128256
    ),
    "qwen3-0.6b": ModelShape(
        "qwen3", 28, 1024, heads=16, kv_heads=8, head_dim=128, tied=True
    ),
    "tiny-gpt2": ModelShape("gpt2", 2, 64, heads=4, vocab=512, max_positions=256),
    "tiny-llama": ModelShape("llama", 2, 64, heads=4, kv_heads=2, ffn=128, vocab=512),
    "tiny-qwen3": ModelShape(
        "qwen3", 2, 64, heads=4, kv_heads=2, head_dim=32, ffn=128, vocab=512
    ),
    "tiny-bert": ModelShape("bert", 2, 64, heads=4, vocab=512, max_positions=256),
}
