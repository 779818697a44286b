"""ModelShape: the sizes of a transformer, and the presets. No torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastlab.spec.checks import Spec, check_choice, check_rule, count, given

# What a family brings when nothing is said: the defaults of its transformers config.
_USUAL: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab": 50257, "max_positions": 1024, "tied": True},
    "llama": {"vocab": 32000, "max_positions": 131072, "tied": False},
    "qwen3": {"vocab": 151936, "max_positions": 40960, "tied": False},
    "bert": {"vocab": 30522, "max_positions": 512, "tied": True},
}
FAMILIES = tuple(_USUAL)
KINDS = ("decoder", "encoder", "encoder-decoder")
LEARNED_POSITIONS = ("gpt2", "bert")  # the others rotate (RoPE), without parameters
GROUPED = ("llama", "qwen3")  # families whose config knows kv_heads and head_dim
HEAD_FIELDS = {"heads", "kv_heads", "head_dim"}


def default_head_dim(hidden: int) -> int:
    """Width of a head: 64 where it divides `hidden`, else the widest even divisor."""
    widths = [d for d in range(2, 65, 2) if hidden % d == 0]
    return widths[-1] if widths else hidden


def default_ffn(family: str, hidden: int) -> int:
    """Width of the MLP: 4H (gpt2, bert), 3H (qwen3), 8H/3 up to a multiple of 256."""
    if family == "llama":  # as in the LLaMA paper's code: 4096 -> 11008
        return 256 * math.ceil(8 * hidden / 3 / 256)
    return 3 * hidden if family == "qwen3" else 4 * hidden


def _defaults(
    family: str, hidden: int, heads: int | None = None, head_dim: int | None = None
) -> dict[str, Any]:
    """What each optional field is when it is not given (given ones help decide)."""
    if head_dim is None:
        head_dim = max(1, hidden // heads) if heads else default_head_dim(hidden)
    usual = max(1, hidden // head_dim)
    return {
        "heads": usual,
        "kv_heads": usual if heads is None else heads,
        "head_dim": head_dim,
        "ffn": default_ffn(family, hidden),
        **{"kind": "encoder" if family == "bert" else "decoder", "config": ""},
        **_USUAL.get(family, _USUAL["llama"]),
    }


@dataclass(frozen=True)
class ModelShape(Spec):
    """The sizes of a transformer; whatever is left None follows from family and hidden.

    Of a family that is none of FAMILIES, or a member of one with options of its own,
    config is what transformers builds it from, as canonical JSON: there the sizes
    beside it are those that the config says, or take their place. kind: what it does;
    one that only reads is an "encoder". Raises ValueError naming the field, its value
    and what is allowed.
    """

    family: str = given("architecture: gpt2, llama, qwen3, bert, or a model's [gpt2]")
    layers: int = count("number of layers", high=1024)
    hidden: int = count("width of the residual stream", low=2, high=2**20)
    heads: int = count("query heads [hidden / 64]", None)
    kv_heads: int = count("heads of keys and values, fewer in GQA [heads]", None)
    head_dim: int = count("width of one head [hidden / heads]", None)
    ffn: int = count("width of the MLP [4 x hidden; qwen3 3 x, llama 8/3 x]", None)
    vocab: int = count("tokens in the vocabulary", None)
    max_positions: int = count("longest prompt and answer together", None)
    tied: bool = given("true or false: the head is the embedding table", None)
    kind: str = field(default="", metadata={})
    config: str = field(default="", metadata={})

    def __post_init__(self) -> None:
        if not self.config and self.family not in FAMILIES:
            self._follow_type()
        self._check_fields()
        usual = _defaults(self.family, self.hidden, self.heads, self.head_dim)
        self._set(**{n: v for n, v in usual.items() if getattr(self, n) in (None, "")})
        if not isinstance(self.tied, bool):
            self.refuse("tied", "must be true or false")
        if self.config:
            return  # transformers says what such a model may be
        if self.heads % self.kv_heads:
            self.refuse("kv_heads", f"must divide heads={self.heads} (GQA groups)")
        if self.family not in GROUPED:
            self._check_ungrouped()
        elif self.head_dim % 2:
            self.refuse("head_dim", "must be even (RoPE pairs)")
        elif self.family == "llama" and self.hidden % self.heads:
            self.refuse("heads", f"must divide hidden={self.hidden} in llama")

    def _follow_type(self) -> None:
        """Fill in what the defaults of a type of transformers give at this width."""
        from fastlab.spec.configs import type_shape

        check_rule("hidden", self.hidden, {"low": 2, "high": 2**20})
        usual = type_shape(self.family)
        try:
            usual = widened(usual, self.hidden)
        except ValueError:  # its own heads do not fit: the usual ones of this width
            width = default_head_dim(self.hidden)
            sizes: Any = dict.fromkeys(("heads", "kv_heads"), self.hidden // width)
            ffn = max(1, usual.ffn * self.hidden // usual.hidden)
            usual = replace(usual, hidden=self.hidden, ffn=ffn, head_dim=width, **sizes)
        own = {name: value for name, value in vars(self).items() if value or value == 0}
        if "heads" in own:
            own.setdefault("kv_heads", math.gcd(usual.kv_heads, self.heads))
        self._set(**{**vars(usual), **own, "family": usual.family})

    def _check_ungrouped(self) -> None:
        if self.heads * self.head_dim != self.hidden:
            equal = f"must equal hidden={self.hidden} in family {self.family}"
            self.refuse("heads", f"x head_dim={self.head_dim} {equal}")
        if self.kv_heads != self.heads:
            why = f"{self.family} has no GQA"
            self.refuse("kv_heads", f"must equal heads={self.heads}: {why}")
        if self.family == "bert" and not self.tied:
            self.refuse("tied", "is not allowed: bert's head is its embedding")

    @property
    def causal(self) -> bool:
        """Whether a position sees those before it alone."""
        return self.kind == "decoder"

    @property
    def rotates(self) -> bool:
        """Whether queries and keys are turned by their position (RoPE)."""
        return self.family not in LEARNED_POSITIONS

    @classmethod
    def preset(cls, name: str) -> ModelShape:
        """A shape by its name in PRESETS; raises ValueError listing the names."""
        check_choice("model", name, PRESETS)
        return PRESETS[name]

    @classmethod
    def from_config(cls, source: Any, architecture: str = "") -> ModelShape:
        """The shape of a hub model, a local folder or a transformers config object.

        architecture: the class of transformers that is meant, where it is not the one
        that the config names. Raises ValueError for what transformers cannot build, or
        what reads no text.
        """
        from fastlab.spec.configs import read_shape

        return read_shape(source, architecture)

    def to_dict(self) -> dict[str, Any]:
        """Canonical fields: those which differ from what would follow by themselves.

        The three head fields decide each other, so they are kept or left out together.
        """
        usual, own = _defaults(self.family, self.hidden), vars(self)
        told = {name for name in own if name not in usual or own[name] != usual[name]}
        if told & HEAD_FIELDS:
            told |= HEAD_FIELDS
        return {name: own[name] for name in own if name in told}


def find_shape(model: str, architecture: str = "", **over: Any) -> ModelShape:
    """A preset, a local folder or a hub name (one with a slash), with overrides.

    architecture: the class of transformers that is meant, if not the config's own.
    """
    if model not in PRESETS and ("/" in model or Path(model).is_dir()):
        return override(ModelShape.from_config(model, architecture), over)
    shape = ModelShape.preset(model)
    if architecture:
        from fastlab.spec.configs import with_architecture

        shape = with_architecture(shape, architecture)
    return override(shape, over)


def override(shape: ModelShape, over: dict[str, Any]) -> ModelShape:
    """`shape` with fields replaced; a new hidden lets what follows from it follow."""
    if shape.config and over.get("family", shape.family) == shape.family:
        return replace(widened(shape, over.get("hidden", shape.hidden)), **over)
    if "hidden" in over or "family" in over:
        kept = ("family", "layers", "hidden", "vocab", "max_positions", "tied")
        return ModelShape(**{name: getattr(shape, name) for name in kept} | over)
    if "heads" in over and "head_dim" not in over and shape.family not in GROUPED:
        over = {"head_dim": None, **over}
    if "heads" in over and "kv_heads" not in over:
        over = {"kv_heads": None, **over}
    return replace(shape, **over)


def widened(shape: ModelShape, hidden: int) -> ModelShape:
    """The shape at another width: more heads of the same size, the MLP in proportion.

    Raises ValueError where that gives no whole number of heads.
    """
    heads, odd = divmod(shape.heads * hidden, shape.hidden)
    if odd or not heads:
        step = shape.hidden // math.gcd(shape.heads, shape.hidden)
        raise ValueError(f"hidden={hidden} must be a multiple of {step}: whole heads")
    kv_heads = math.gcd(heads, max(1, shape.kv_heads * hidden // shape.hidden))
    ffn = max(1, shape.ffn * hidden // shape.hidden)
    return replace(shape, hidden=hidden, heads=heads, kv_heads=kv_heads, ffn=ffn)


# Models that people use, with the source of their sizes, and tiny ones for trials.
MODELS = Path(__file__).parents[2] / "data" / "models.json"
PRESETS: dict[str, ModelShape] = {
    name: ModelShape.from_dict(model["shape"])
    for name, model in json.loads(MODELS.read_text()).items()
}
