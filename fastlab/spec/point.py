"""Workload, Recipe and Point: what is run, and how. No torch.

Canonical JSON leaves defaults out: a field added later changes no old key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fastlab.spec.checks import check_choice, check_count, check_names, digest, make
from fastlab.spec.shape import ModelShape

PHASES = ("prefill", "decode", "generate")
LOGITS = ("all", "last")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
ATTENTIONS = ("sdpa", "eager")
CACHES = ("dynamic", "none")
RUNTIMES = ("eager",)


@dataclass(frozen=True)
class Workload:
    """One call: prefill of a prompt, one decode step, or a whole generation.

    decode = one new token per sequence with prompt_len tokens cached; generate =
    prefill, then new_tokens tokens in all (the first comes from the prefill).
    logits = for which positions the head runs. Where there is no choice the usual name
    is kept: a decode step has one position ("all"), a generation needs "last".
    """

    phase: str = "prefill"
    batch: int = 1
    prompt_len: int = 128
    new_tokens: int = None  # type: ignore[assignment]
    logits: str = "all"

    def __post_init__(self) -> None:
        check_choice("phase", self.phase, PHASES)
        check_count("batch", self.batch)
        check_count("prompt_len", self.prompt_len)
        check_choice("logits", self.logits, LOGITS)
        usual = {"prefill": 0, "decode": 1, "generate": 32}[self.phase]
        if self.new_tokens is None:
            object.__setattr__(self, "new_tokens", usual)
        check_count("new_tokens", self.new_tokens, low=0)
        if self.phase != "prefill":
            logits = "last" if self.phase == "generate" else "all"
            object.__setattr__(self, "logits", logits)
        if self.phase != "generate" and self.new_tokens != usual:
            raise ValueError(
                f"new_tokens={self.new_tokens} must be {usual} in phase {self.phase}"
            )
        if self.phase == "generate" and self.new_tokens < 1:
            raise ValueError("new_tokens=0 must be 1 or more in phase generate")

    @property
    def positions(self) -> int:
        """Positions that the call reaches: cached, prompt and new ones."""
        if self.phase == "generate":
            return self.prompt_len + self.new_tokens - 1
        return self.prompt_len + self.new_tokens

    def to_dict(self) -> dict[str, Any]:
        """Canonical fields: phase, batch and prompt_len, others where not default."""
        names = ("phase", "batch", "prompt_len")
        kept: dict[str, Any] = {name: getattr(self, name) for name in names}
        bare = Workload(**kept)
        return kept | _differences(self, bare)


@dataclass(frozen=True)
class Recipe:
    """How the model is run: number format, attention, KV cache, runtime."""

    precision: str = "fp32"
    attention: str = "sdpa"
    cache: str = None  # type: ignore[assignment]  # dynamic; none where nothing decodes
    runtime: str = "eager"

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("attention", self.attention, ATTENTIONS)
        if self.cache is not None:
            check_choice("cache", self.cache, CACHES)
        check_choice("runtime", self.runtime, RUNTIMES)

    def to_dict(self) -> dict[str, Any]:
        """Canonical fields: the precision, others where not the default."""
        return {"precision": self.precision} | _differences(self, Recipe())


@dataclass(frozen=True)
class Point:
    """One question: shape x workload x recipe x weights ("random:<seed>" or trained).

    Raises ValueError where the parts do not fit together (bert never decodes; more
    positions than the model has).
    """

    shape: ModelShape
    workload: Workload = Workload()
    recipe: Recipe = Recipe()
    weights: str = "random:0"

    def __post_init__(self) -> None:
        self._check_weights()
        decodes = self.shape.family != "bert"
        if self.recipe.cache is None:
            cache = "dynamic" if decodes else "none"
            object.__setattr__(self, "recipe", replace(self.recipe, cache=cache))
        if not decodes:
            self._check_encoder()
        if self.workload.positions > self.shape.max_positions:
            raise ValueError(
                f"prompt_len={self.workload.prompt_len} needs "
                f"{self.workload.positions} positions with the new tokens; "
                f"max_positions={self.shape.max_positions} of the model is lower"
            )

    def _check_weights(self) -> None:
        kind, _, tail = str(self.weights).partition(":")
        if tail.isdigit() if kind == "random" else (kind == "trained" and tail):
            return
        raise ValueError(
            f"weights={self.weights!r} must be random:<seed> or trained:<sha>"
        )

    def _check_encoder(self) -> None:
        if self.workload.phase != "prefill":
            raise ValueError(
                f"phase={self.workload.phase!r} is not one of prefill: "
                "bert reads both ways and does not decode"
            )
        if self.workload.logits != "all":
            raise ValueError("logits='last' must be 'all': bert scores every position")
        if self.recipe.cache != "none":
            raise ValueError(f"cache={self.recipe.cache!r} must be 'none' for bert")

    @property
    def seed(self) -> int | None:
        """The seed of random weights, None for trained ones."""
        kind, _, tail = self.weights.partition(":")
        return int(tail) if kind == "random" else None

    def to_dict(self) -> dict[str, Any]:
        """Canonical dict {weights, shape, workload, recipe}, defaults left out."""
        recipe = self.recipe.to_dict()
        if recipe.get("cache") == (
            "none" if self.shape.family == "bert" else "dynamic"
        ):
            del recipe["cache"]
        return {
            "weights": self.weights,
            "shape": self.shape.to_dict(),
            "workload": self.workload.to_dict(),
            "recipe": recipe,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Point:
        """The point whose `to_dict` is `data`; raises ValueError on unknown fields."""
        check_names("point", data, [f.name for f in fields(cls)])
        return cls(
            make(ModelShape, data["shape"]),
            make(Workload, data.get("workload", {})),
            make(Recipe, data.get("recipe", {})),
            data.get("weights", "random:0"),
        )

    @property
    def label(self) -> str:
        """A few words for progress bars and figures: "gpt2 12x768 bf16 prefill 128"."""
        s, work = self.shape, self.workload
        batch = f" x{work.batch}" if work.batch > 1 else ""
        size = f"{s.family} {s.layers}x{s.hidden} {self.recipe.precision}"
        return f"{size} {work.phase} {work.prompt_len}{batch}"

    @property
    def key(self) -> str:
        """sha256 of the canonical JSON, in hex."""
        return digest(self.to_dict())


def _differences(value: Any, bare: Any) -> dict[str, Any]:
    names = [f.name for f in fields(value)]
    return {
        n: getattr(value, n) for n in names if getattr(value, n) != getattr(bare, n)
    }
