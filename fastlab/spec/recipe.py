"""Recipe: how a model is run, and which parts of one fit together. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastlab.spec.checks import check_choice, check_count, differences
from fastlab.spec.precision import FORMATS, PRECISIONS, QUANTIZED, Format
from fastlab.spec.shape import ModelShape

ATTENTIONS = (
    *("sdpa", "eager", "sdpa-math", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn"),
    "flex",
)
CACHES = ("dynamic", "none", "static", "static-int8", "static-fp8")
STATIC = tuple(name for name in CACHES if name.startswith("static"))
RUNTIMES = ("eager", "compile", "transformers", "decoder", "graph")
OURS = ("decoder", "graph")  # the runtimes of fastlab's own decoder
SCOPES = ("layers", "head", "all")
KV_SCALE_BYTES = 4  # of the scale of one key or value in a quantized cache


@dataclass(frozen=True)
class Recipe:
    """How the model is run: number format, attention, KV cache, runtime.

    attention: sdpa leaves the kernel to torch, sdpa-<kernel> names it, eager is plain
    matrix products, flex is flex_attention. cache: static ones are allocated once, of a
    bucketed length, their keys and values kept as they are or in int8 or fp8 with one
    scale per token and head. runtime: eager; compile = torch.compile of the forward
    pass; transformers = its own static cache with automatic compilation; decoder =
    fastlab's decode step compiled as one graph; graph = that, replayed as a CUDA graph.
    unroll: decode steps in one compiled call or graph. scope: which weights a quantized
    precision quantizes: those of the layers, the output head too ("head"), or the input
    embeddings as well ("all").
    """

    precision: str = "fp32"
    attention: str = "sdpa"
    cache: str = None  # type: ignore[assignment]  # as usual_cache says
    runtime: str = "eager"
    unroll: int = 1
    scope: str = "layers"

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("attention", self.attention, ATTENTIONS)
        if self.cache is not None:
            check_choice("cache", self.cache, CACHES)
        check_choice("runtime", self.runtime, RUNTIMES)
        check_count("unroll", self.unroll, high=64)
        check_choice("scope", self.scope, SCOPES)
        if self.scope != "layers" and self.precision not in QUANTIZED:
            raise ValueError(
                f"scope={self.scope!r} needs a quantized precision "
                f"({', '.join(QUANTIZED)}); precision={self.precision!r} is none"
            )
        if self.unroll > 1 and self.runtime not in OURS:
            raise ValueError(
                f"unroll={self.unroll} needs runtime {' or '.join(OURS)}; "
                f"runtime={self.runtime!r} takes one step at a time"
            )

    @property
    def format(self) -> Format:
        """What the precision is made of."""
        return FORMATS[self.precision]

    def to_dict(self) -> dict[str, Any]:
        """Canonical fields: the precision, others where not the default."""
        return {"precision": self.precision} | differences(self, Recipe())


PLAIN = Recipe()


def usual_cache(family: str, phase: str, runtime: str) -> str:
    """The KV cache of a recipe that names none.

    None where nothing decodes, transformers' growing one in eager runs and prefills,
    a static one for what is compiled to decode.
    """
    if family == "bert":
        return "none"
    return "dynamic" if runtime == "eager" or phase == "prefill" else "static"


def bucket(positions: int) -> int:
    """The length of a static cache that holds so many positions.

    128, 192, 256, 384, 512, ...: two lengths per doubling, so that few graphs are
    compiled and at most a third of the rows that attention reads are empty.
    """
    size = 128
    while size < positions:
        size *= 2
    return size * 3 // 4 if size > 128 and positions <= size * 3 // 4 else size


def kv_row_bytes(cache: str, value_bytes: int, head_dim: int) -> int:
    """Bytes that one position's key (or value) of one head takes in a cache.

    int8 and fp8 take one byte a number and a scale in fp32.
    """
    if cache == "none":
        return 0
    if cache in ("static-int8", "static-fp8"):
        return head_dim + KV_SCALE_BYTES
    return value_bytes * head_dim


def check_fit(recipe: Recipe, shape: ModelShape, phase: str) -> None:
    """Raise ValueError where a recipe cannot run such a model in such a phase."""
    _check_runtime(recipe, shape.family, phase)
    if recipe.format.group:
        _check_groups(recipe, shape)


def _check_runtime(recipe: Recipe, family: str, phase: str) -> None:
    static, runtime = recipe.cache in STATIC, recipe.runtime
    if family == "bert" and (static or runtime not in ("eager", "compile")):
        raise ValueError(f"runtime={runtime!r} must be eager or compile for bert")
    if runtime == "transformers" and (phase != "generate" or recipe.cache != "static"):
        raise ValueError(
            "runtime='transformers' is generate with cache='static'; "
            f"this is phase={phase!r} with cache={recipe.cache!r}"
        )
    if runtime in OURS and (phase == "prefill" or not static):
        raise ValueError(
            f"runtime={runtime!r} needs phase decode or generate and cache "
            f"{', '.join(STATIC)}; this is phase={phase!r} with cache={recipe.cache!r}"
        )
    if recipe.unroll > 1 and phase != "generate":
        raise ValueError(f"unroll={recipe.unroll} must be 1 in phase {phase}")
    if runtime == "compile" and phase != "prefill" and recipe.cache == "dynamic":
        raise ValueError(
            "runtime='compile' cannot decode with cache='dynamic': its shapes change "
            f"with each token; allowed: none, {', '.join(STATIC)}"
        )


def _check_groups(recipe: Recipe, shape: ModelShape) -> None:
    group = recipe.format.group
    inputs = {
        "hidden": shape.hidden,
        "heads x head_dim": shape.heads * shape.head_dim,
        "ffn": shape.ffn,
    }
    for name, width in inputs.items():
        if width % group:
            raise ValueError(
                f"precision={recipe.precision!r}: groups of {group} do not divide "
                f"{name}={width}"
            )
