"""Scenarios: who asks, how much, how often, and what is fast and good enough. No torch.

data/scenarios.yaml holds those with a name, each number with its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import pairwise
from math import exp, log
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

from fastlab.spec.checks import (
    Spec,
    check_choice,
    check_names,
    check_number,
    count,
    given,
    make,
)
from fastlab.spec.point import Workload
from fastlab.spec.shape import ModelShape

FILE = Path(__file__).parents[2] / "data" / "scenarios.yaml"
TAIL = 0.1  # percent at either end whose lengths are taken as those before
Z = {
    name: NormalDist().inv_cdf(int(name[1:]) / 100)
    for name in ("p10", "p50", "p90", "p99")
}
FORMS = (tuple(Z), ("low", "high"), ("fixed",))
TIMES = ("ttft_s", "tpot_s", "e2e_s")


@dataclass(frozen=True)
class Lengths(Spec):
    """Tokens of prompts or answers: percentiles, all from low to high alike, or fixed.

    Between percentiles the logarithm of the length goes in a straight line with the
    normal quantile, and beyond p10 and p99 on as before: a piece of a lognormal each.
    """

    p10: int | None = count("tokens at the 10th percentile", None)
    p50: int | None = count("tokens at the median", None)
    p90: int | None = count("tokens at the 90th percentile", None)
    p99: int | None = count("tokens at the 99th percentile", None)
    low: int | None = count("fewest tokens", None, low=0)
    high: int | None = count("most tokens", None, low=0)
    fixed: int | None = count("tokens of each", None, low=0)

    def __post_init__(self) -> None:
        self._check_fields()
        own = tuple(name for name, value in vars(self).items() if value is not None)
        if own not in FORMS:
            forms = ", or ".join(" ".join(form) for form in FORMS)
            raise ValueError(f"{' '.join(own) or 'nothing'} given: it must be {forms}")
        for one, other in pairwise(own):
            if getattr(self, one) > getattr(self, other):
                self.refuse(one, f"must be at most {other}={getattr(self, other)}")

    @lru_cache(4096)  # noqa: B019
    def at(self, q: float) -> int:
        """Tokens at the q-th percentile, q from 0 to 100; ValueError beyond."""
        if not 0 <= q <= 100:
            raise ValueError(f"q={q!r} must be a percentile from 0 to 100")
        if self.fixed is not None:
            return self.fixed
        if self.low is not None and self.high is not None:
            return round(self.low + (self.high - self.low) * q / 100)
        z = NormalDist().inv_cdf(min(max(q, TAIL), 100 - TAIL) / 100)
        piece = sum(z > Z[name] for name in ("p50", "p90"))
        left, right = FORMS[0][piece : piece + 2]
        a, b = log(getattr(self, left)), log(getattr(self, right))
        share = (z - Z[left]) / (Z[right] - Z[left])
        return max(1, round(exp(a + (b - a) * share)))

    def sample(self, rng: Any, n: int) -> list[int]:
        """Lengths of n requests; rng: a numpy Generator."""
        return [self.at(100 * u) for u in rng.random(n).tolist()]

    @property
    def mean(self) -> float:
        """Mean tokens."""
        return _mean(self)


@lru_cache
def _mean(lengths: Lengths) -> float:
    return fmean(lengths.at(q / 10 + 0.05) for q in range(1000))


@dataclass(frozen=True)
class Arrivals(Spec):
    """Requests a second at random, or users who ask again when the answer is there.

    cv: standard deviation of the times between requests over their mean: 0 a clock, 1
    independent ones (Poisson), more in bursts.
    """

    rate: float | None = given("requests a second", None)
    cv: float = given("spread of the times between requests", 1.0)
    users: int | None = count("at once, each with one request", None)

    def __post_init__(self) -> None:
        self._check_fields()
        if (self.rate is None) == (self.users is None):
            said = f"rate={self.rate!r} and users={self.users!r}"
            raise ValueError(f"{said}: one of the two must be given")
        if self.rate is not None:
            check_number("rate", self.rate)
        check_number("cv", self.cv, zero=True)


@dataclass(frozen=True)
class Targets(Spec):
    """Seconds within which a percentile of the requests must be; None asks nothing.

    ttft_s: to the first token; tpot_s: mean of each further one; e2e_s: to the last.
    """

    ttft_s: float | None = given("to the first token", None)
    tpot_s: float | None = given("each further token", None)
    e2e_s: float | None = given("to the last token", None)
    percentile: float = given("share of requests, in percent", 99)

    def __post_init__(self) -> None:
        for name, value in self.seconds.items():
            check_number(name, value)
        if not self.seconds:
            raise ValueError(f"no target: one of {', '.join(TIMES)} must be given")
        check_number("percentile", self.percentile)
        if self.percentile >= 100:
            self.refuse("percentile", "must be below 100")

    @property
    def seconds(self) -> dict[str, float]:
        """The times that are asked for: name -> seconds."""
        return {n: getattr(self, n) for n in TIMES if getattr(self, n) is not None}


@dataclass(frozen=True)
class Scenario(Spec):
    """Requests, how fast they must be answered, and how much quality may be lost.

    floor: the largest rise of bits per byte against the dense fp32 model, as a share.
    sources: of each part, where its numbers are from, or "assumption".
    """

    name: str
    title: str
    prompt: Lengths
    answer: Lengths
    arrivals: Arrivals
    targets: Targets
    floor: float
    sources: Mapping[str, str] = field(hash=False)

    def __post_init__(self) -> None:
        if not self.prompt.at(0):
            raise ValueError("prompt: 0 tokens at the least; it must be 1 or more")

    def workload(self, shape: ModelShape) -> Workload:
        """One call with the lengths at the target's percentile, clipped to the model.

        All users at once are a batch. Where nothing is written, or a model that only
        reads gives a class, it is a prefill. ValueError where that cannot be.
        """
        q, batch = self.targets.percentile, self.arrivals.users or 1
        prompt, answer = self.clip(self.prompt.at(q), self.answer.at(q), shape)
        if shape.kind == "encoder" and self.answer.at(q) > 1:
            said = f"family={shape.family!r} writes no text"
            raise ValueError(f"{said}, and scenario={self.name!r} has answers")
        if answer and shape.kind != "encoder":
            return Workload("generate", batch, prompt, answer)
        logits = "all" if shape.kind == "encoder" else "last"
        return Workload("prefill", batch, prompt, logits=logits)

    @staticmethod
    def clip(prompt: int, answer: int, shape: ModelShape) -> tuple[int, int]:
        """Lengths that the model has positions for; answers keep half of them."""
        most = shape.max_positions
        answer = min(answer, max(most // 2, most + 1 - prompt, 1))
        return min(prompt, most - max(answer - 1, 0)), answer

    def clipped(self, shape: ModelShape) -> str:
        """What of the lengths at the target's percentile the model lacks; or ""."""
        q = self.targets.percentile
        asked = self.prompt.at(q), self.answer.at(q)
        left = self.clip(*asked, shape)
        of = f"{shape.max_positions} positions"
        pairs = zip(("prompt", "answer"), asked, left, strict=True)
        cut = [f"{what} {a} to {b}" for what, a, b in pairs if a != b]
        return f"cut to the model's {of}: {', '.join(cut)}" if cut else ""


@cache
def scenarios() -> dict[str, Scenario]:
    """Those of data/scenarios.yaml by name."""
    return _read(FILE)


def scenario(name: str) -> Scenario:
    """A scenario by its name, or the one of a YAML file; ValueError says what is wrong.

    The file has the form of data/scenarios.yaml, with one scenario in it.
    """
    if not (path := Path(str(name))).suffix:
        known = scenarios()
        words = {word: n for n, s in known.items() for word in s.title.split()}
        check_choice("scenario", name, known, words)
        return known[name]
    found = _read(path)
    if len(found) != 1:
        raise ValueError(f"{name} holds {len(found)} scenarios: it must be one")
    return next(iter(found.values()))


def _read(path: Path) -> dict[str, Scenario]:
    import yaml

    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ValueError(f"scenario={str(path)!r}: {error}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path.name} must be a mapping: name -> scenario")
    return {str(n): _scenario(str(n), own, path.name) for n, own in told.items()}


def _scenario(name: str, told: Any, where: str) -> Scenario:
    parts: dict[str, Any] = {"prompt": Lengths, "answer": Lengths}
    parts |= {"arrivals": Arrivals, "targets": Targets, "floor": None}
    place = f"{where}: {name}"
    try:
        if not isinstance(told, dict):
            raise ValueError(f"{told!r} must be a mapping")
        check_names("scenario", told, ["title", *parts])
        if missing := [part for part in ("title", *parts) if part not in told]:
            raise ValueError(f"needs {', '.join(missing)}")
        made: dict[str, Any] = {"title": str(told["title"])}
        sources = {}
        for part, cls in parts.items():
            place = f"{where}: {name}: {part}"
            values, sources[part] = _sourced(told[part])
            made[part] = make(cls, values) if cls else _floor(values)
        place = f"{where}: {name}"
        return Scenario(name, sources=sources, **made)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _sourced(told: Any) -> tuple[dict[str, Any], str]:
    """The values of a part, and where they are from."""
    if not isinstance(told, dict):
        raise ValueError(f"{told!r} must be a mapping of its fields")
    values = dict(told)
    source = values.pop("source", None)
    if not (isinstance(source, str) and source):
        raise ValueError(f"source={source!r} must be a text: a source, or assumption")
    return values, source


def _floor(told: Mapping[str, Any]) -> float:
    check_names("floor", told, ["loss"])
    check_number("loss", loss := told.get("loss"), zero=True)
    return float(loss or 0)
