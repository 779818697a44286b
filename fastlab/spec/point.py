"""Workload, Recipe and Point: what is run, and how. No torch.

Canonical JSON leaves defaults out: a field added later changes no old key.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from fastlab.spec.checks import Spec, choice, count, did_you_mean, digest
from fastlab.spec.engines import PHASES
from fastlab.spec.pruning import NOTHING_CUT, pruned_shape
from fastlab.spec.recipe import PLAIN, Recipe
from fastlab.spec.shape import ModelShape, override, widened

LOGITS = ("all", "last")


@dataclass(frozen=True)
class Workload(Spec):
    """One call: prefill of a prompt, one decode step, or a whole generation.

    decode = one new token per sequence with prompt_len tokens cached; generate =
    prefill, then new_tokens tokens in all (the first comes from the prefill). Where
    there is no choice of logits the usual name is kept: a decode step has one position
    ("all"), a generation needs "last". Keys and values of a prefix are copied.
    """

    KEPT: ClassVar = ("phase", "batch", "prompt_len")
    phase: str = choice("what is run (decode: one token)", PHASES, "prefill")
    batch: int = count("sequences at a time", 1)
    prompt_len: int = count("tokens in the prompt; in decode, those cached", 128)
    new_tokens: int = count("tokens that a generation writes [32]", None, low=0)
    logits: str = choice("positions scored in a prefill", LOGITS, "all")
    prefix_len: int = count("tokens of the prompt in a reused prefix", 0, low=0)

    def __post_init__(self) -> None:
        self._check_fields()
        usual = {"prefill": 0, "decode": 1, "generate": 32}[self.phase]
        if self.new_tokens is None:
            self._set(new_tokens=usual)
        if self.phase != "prefill":
            self._set(logits="last" if self.phase == "generate" else "all")
        if self.phase == "generate" and self.new_tokens < 1:
            self.refuse("new_tokens", "must be 1 or more in phase generate")
        if self.phase != "generate" and self.new_tokens != usual:
            self.refuse("new_tokens", f"must be {usual} in phase {self.phase}")
        if self.prefix_len and self.phase == "decode":
            why = "there the whole prompt is cached"
            self.refuse("prefix_len", f"must be 0 in phase decode: {why}")
        if self.prefix_len >= self.prompt_len:
            rule = f"must be less than prompt_len={self.prompt_len}"
            self.refuse("prefix_len", f"{rule}: one token at least is computed")

    @property
    def positions(self) -> int:
        """Positions that the call reaches: cached, prompt and new ones."""
        return self.prompt_len + self.new_tokens - (self.phase == "generate")


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
    hint = did_you_mean(str(weights), near)
    raise ValueError(f"weights={weights!r} must be random:<seed> or {trained}{hint}")


@dataclass(frozen=True)
class Point(Spec):
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
        if self.recipe.cache is None:
            self._set(recipe=_with_cache(self.recipe, self._usual_cache))
        work, recipe = self.workload, self.recipe
        if self.shape.kind == "encoder":
            if work.phase != "prefill":
                why = "bert reads both ways and does not decode"
                work.refuse("phase", f"is not one of prefill: {why}")
            if work.logits != "all":
                work.refuse("logits", "must be 'all': bert scores every position")
            if recipe.cache != "none":
                recipe.refuse("cache", "must be 'none' for bert")
        if '"quantization_config"' in self.shape.config and recipe.format.weights:
            why = "the model's weights are quantized already, by quantization_config"
            recipe.refuse("precision", f"must be a dense one: {why}")
        _check_fit(recipe, self.built_shape, work.phase)
        if recipe.distill_steps and self.seed is not None:
            why = f"weights={self.weights!r} know nothing that could be learned"
            recipe.refuse("distill_steps", f"needs trained weights; {why}")
        if work.prefix_len and not recipe.cache.startswith("static"):
            why = f"cache={recipe.cache!r} has nothing to copy it into"
            work.refuse("prefix_len", f"needs a static cache; {why}")
        if work.positions > self.shape.max_positions:
            needs = f"needs {work.positions} positions with the new tokens"
            most = f"max_positions={self.shape.max_positions} of the model is lower"
            work.refuse("prompt_len", f"{needs}; {most}")

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
    def model_key(self) -> tuple[Any, ...]:
        """Points with the same key can be measured on the same built model."""
        recipe = self.recipe  # sdpa-<kernel> is a model's sdpa
        implementation = recipe.attention.partition("-")[0]
        return self.shape, self.weights, *recipe.weights_key, implementation

    @property
    def _usual_cache(self) -> str:
        """The KV cache of a recipe that names none.

        None where nothing decodes, transformers' growing one in eager runs and
        prefills, a static one for what is compiled to decode.
        """
        if self.shape.kind == "encoder":
            return "none"
        prefills = self.workload.phase == "prefill"
        grows = prefills or "dynamic" in self.recipe.engine.caches
        return "dynamic" if grows else "static"

    @property
    def seed(self) -> int | None:
        """The seed of random weights, None for trained ones."""
        kind, _, tail = self.weights.partition(":")
        return int(tail) if kind == "random" else None

    def to_dict(self) -> dict[str, Any]:
        """Canonical {shape, workload, recipe, weights}, their defaults left out."""
        parts = {name: dict(_told(part)) for name, part in self._parts}
        if parts["recipe"].get("cache") == self._usual_cache:
            del parts["recipe"]["cache"]
        return {**parts, "weights": self.weights}

    @property
    def _parts(self) -> tuple[tuple[str, Spec], ...]:
        own = ("shape", self.shape), ("workload", self.workload)
        return *own, ("recipe", self.recipe)

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


@lru_cache(maxsize=2**14)
def _with_cache(recipe: Recipe, cache: str) -> Recipe:
    return replace(recipe, cache=cache)


@lru_cache(maxsize=2**14)
def _told(part: Spec) -> dict[str, Any]:
    return part.to_dict()


_check_fit = lru_cache(maxsize=2**14)(Recipe.check_fit)


def vary(point: Point, field: str, value: int) -> Point:
    """The point with prompt_len, hidden or another field of its shape changed.

    A longer prompt gets positions enough for it. Raises ValueError where the value does
    not fit the other sizes.
    """
    if field == "prompt_len":
        most = max(point.shape.max_positions, value + 1)
        work, shape = point.workload, replace(point.shape, max_positions=most)
        return replace(point, shape=shape, workload=replace(work, prompt_len=value))
    if field == "hidden":
        return replace(point, shape=widened(point.shape, value))
    return replace(point, shape=override(point.shape, {field: value}))
