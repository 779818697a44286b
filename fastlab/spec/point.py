"""Workload, Recipe and Point: what is run, and how. No torch.

Canonical JSON leaves defaults out: a field added later changes no old key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fastlab.spec.checks import (
    check_choice,
    check_count,
    check_names,
    differences,
    digest,
    make,
    nearest,
)
from fastlab.spec.pruning import NOTHING_CUT, pruned_shape
from fastlab.spec.recipe import PLAIN, Recipe, check_fit, usual_cache
from fastlab.spec.shape import ModelShape

PHASES = ("prefill", "decode", "generate")
LOGITS = ("all", "last")


@dataclass(frozen=True)
class Workload:
    """One call: prefill of a prompt, one decode step, or a whole generation.

    decode = one new token per sequence with prompt_len tokens cached; generate =
    prefill, then new_tokens tokens in all (the first comes from the prefill).
    logits = for which positions the head runs. Where there is no choice the usual name
    is kept: a decode step has one position ("all"), a generation needs "last".
    prefix_len = how many of the prompt's tokens come from a reused prefix: their keys
    and values are copied, not computed.
    """

    phase: str = "prefill"
    batch: int = 1
    prompt_len: int = 128
    new_tokens: int = None  # type: ignore[assignment]
    logits: str = "all"
    prefix_len: int = 0

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
        self._check_prefix()

    def _check_prefix(self) -> None:
        check_count("prefix_len", self.prefix_len, low=0)
        if self.prefix_len and self.phase == "decode":
            raise ValueError(
                f"prefix_len={self.prefix_len} must be 0 in phase decode: "
                "there the whole prompt is cached"
            )
        if self.prefix_len >= self.prompt_len:
            raise ValueError(
                f"prefix_len={self.prefix_len} must be less than "
                f"prompt_len={self.prompt_len}: one token at least is computed"
            )

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
        return kept | differences(self, bare)


def check_weights(
    weights: str, trained: str = "trained:<sha>", near: tuple[str, ...] = ()
) -> None:
    """Raise ValueError unless they are random:<seed> or trained:<sha>.

    trained: how trained ones are told where the user types them; near: what may have
    been meant.
    """
    kind, _, tail = str(weights).partition(":")
    if tail.isdigit() if kind == "random" else (kind == "trained" and tail):
        return
    close = nearest(str(weights), list(near))
    hint = f"; did you mean {close}?" if close else ""
    raise ValueError(f"weights={weights!r} must be random:<seed> or {trained}{hint}")


@dataclass(frozen=True)
class Point:
    """One question: shape x workload x recipe x weights ("random:<seed>" or trained).

    shape is the dense model's; what the recipe's pruning leaves of it is `built_shape`.
    Raises ValueError where the parts do not fit together (bert never decodes; more
    positions than the model has).
    """

    shape: ModelShape
    workload: Workload = Workload()
    recipe: Recipe = PLAIN
    weights: str = "random:0"

    def __post_init__(self) -> None:
        check_weights(self.weights)
        decodes = self.shape.family != "bert"
        if self.recipe.cache is None:
            recipe = replace(self.recipe, cache=self._usual_cache)
            object.__setattr__(self, "recipe", recipe)
        if not decodes:
            self._check_encoder()
        check_fit(self.recipe, self.built_shape, self.workload.phase)
        if self.recipe.distill_steps and self.seed is not None:
            raise ValueError(
                f"distill_steps={self.recipe.distill_steps} needs trained weights; "
                f"weights={self.weights!r} know nothing that could be learned"
            )
        if self.workload.prefix_len and not self.recipe.cache.startswith("static"):
            raise ValueError(
                f"prefix_len={self.workload.prefix_len} needs a static cache; "
                f"cache={self.recipe.cache!r} has nothing to copy it into"
            )
        if self.workload.positions > self.shape.max_positions:
            raise ValueError(
                f"prompt_len={self.workload.prompt_len} needs "
                f"{self.workload.positions} positions with the new tokens; "
                f"max_positions={self.shape.max_positions} of the model is lower"
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
    def built_shape(self) -> ModelShape:
        """The shape of the model that runs: what pruning leaves of the dense one."""
        if not self.recipe.prunes:
            return self.shape
        return pruned_shape(self.shape, self.recipe.pruning)

    @property
    def built(self) -> Point:
        """The same call on a model that has the built shape from the start."""
        if not self.recipe.prunes:
            return self
        recipe = replace(self.recipe, pruning=NOTHING_CUT, distill_steps=0)
        return replace(self, shape=self.built_shape, recipe=recipe)

    @property
    def _usual_cache(self) -> str:
        return usual_cache(self.shape.family, self.workload.phase, self.recipe.runtime)

    @property
    def seed(self) -> int | None:
        """The seed of random weights, None for trained ones."""
        kind, _, tail = self.weights.partition(":")
        return int(tail) if kind == "random" else None

    def to_dict(self) -> dict[str, Any]:
        """Canonical dict {weights, shape, workload, recipe}, defaults left out."""
        recipe = self.recipe.to_dict()
        if recipe.get("cache") == self._usual_cache:
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
        s, work = self.built_shape, self.workload
        batch = f" x{work.batch}" if work.batch > 1 else ""
        size = f"{s.family} {s.layers}x{s.hidden} {self.recipe.precision}"
        made = "".join(f" {word}" for word in self.recipe.made_words)
        return f"{size}{made} {work.phase} {work.prompt_len}{batch}"

    @property
    def key(self) -> str:
        """sha256 of the canonical JSON, in hex."""
        return digest(self.to_dict())
