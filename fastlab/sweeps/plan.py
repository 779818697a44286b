"""What is left to measure, in which order, and how long it may take. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastlab.clock.timing import Settings
from fastlab.cost.memory import parameters
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.record import Estimate, Record, row_key
from fastlab.spec.checks import did_you_mean
from fastlab.spec.grids import FLAT, flat
from fastlab.spec.point import Point
from fastlab.spec.recipe import PLAIN
from fastlab.sweeps.store import Seen

# Of a measurement on a busy machine: calls besides warm-up and samples, other seconds,
# those to compile, those to read a text; parameters made and FLOPs of judging a second.
CALLS, FIXED_S, COMPILED_S, TEXT_S = 10, 1.0, 60.0, 20.0
RATES = {"cpu": (5e7, 1e10), "cuda": (1e9, 1e13)}
JUDGED, MOST = (256, 32_768), 4e12  # positions of random and of trained weights; FLOPs
GOOD = ("ok", "unsupported")  # what --rerun failed leaves alone

Rerun = Callable[[Point, str], bool]  # whether a row of that status is measured anew


@dataclass
class Target:
    """What plans need to know of a device: name, settings, and a profile if any."""

    name: str
    settings: Settings
    profile: Device | None = None
    count: int = 1  # of such devices, one beside the other

    def key(self, point: Point) -> str:
        """The key of the rows that a point gets there."""
        return row_key(point, self.name, self.settings.to_dict())

    def estimate(self, point: Point) -> Estimate | None:
        """What a point should cost there; None where nothing can be said."""
        try:
            return estimate([point], self.profile)[0] if self.profile else None
        except Exception:  # whoever measures it says why, in the row
            return None

    def lost(self, point: Point, status: str, reason: str) -> Record:
        """The row of a point whose worker said nothing."""
        how, expected = self.settings.to_dict(), self.estimate(point)
        return Record(point, self.name, how, status, expected, reason=reason)

    def expected_s(self, point: Point) -> float:
        """Seconds from a point to its row, at most, besides those of distilling."""
        recipe, how, expected = point.recipe, self.settings, self.estimate(point)
        call = expected.seconds if expected else 0
        fixed = FIXED_S + (COMPILED_S if recipe.engine.compiled else 0)
        warm = min(max(how.warmup_calls * call, how.warmup_s), how.warmup_cap_s + call)
        spent = fixed + CALLS * call + warm + how.budget_s
        on_gpu = self.profile is not None and self.profile.kind != "cpu"
        made, flops = RATES["cuda" if on_gpu else "cpu"]
        size, trained = parameters(point.shape), point.seed is None
        if trained or recipe.weights_key != PLAIN.weights_key:
            spent += min(4 * size * JUDGED[trained], MOST) / flops + TEXT_S * trained
            spent += 3 * size / made  # the dense one, and what is made of it
        return spent + size / made


def left(
    points: Sequence[Point], seen: Seen, bench: Any, again: Rerun | None = None
) -> list[Point]:
    """Points without a final row, each once, those that share a model together.

    again: which of those with a row are to be measured anew all the same.
    """
    keys = {bench.key(point): point for point in dict.fromkeys(points)}
    done = {key for key in seen.done if key in keys}
    if again:
        done = {key for key in done if not again(keys[key], seen.status[key])}
    todo = [point for key, point in keys.items() if key not in done]
    first: dict[tuple[Any, ...], int] = {}
    for place, point in enumerate(todo):
        first.setdefault(point.model_key, place)
    return sorted(todo, key=lambda point: first[point.model_key])


def rerun(text: str, points: Sequence[Point]) -> Rerun | None:
    """What is measured anew: "failed", "all", FIELD=VALUE[,VALUE], "" for nothing.

    Raises ValueError for another text, and for one that fits no point.
    """
    name, _, values = text.partition("=")
    if text in ("", "failed", "all"):
        kept = () if text == "all" else GOOD
        return (lambda _, status: status not in kept) if text else None
    if name not in (names := [*FLAT, "weights"]) or not values:
        hint = did_you_mean(name, ["failed", "all", *names])
        raise ValueError(f"rerun={text!r} must be failed, all or FIELD=VALUE{hint}")
    wanted, there = values.split(","), {str(flat(point)[name]) for point in points}
    if missing := [value for value in wanted if value not in there]:
        own = ", ".join(sorted(there))
        raise ValueError(f"rerun={name}={missing[0]} fits no point; {name}: {own}")
    return lambda point, _: str(flat(point)[name]) in wanted
