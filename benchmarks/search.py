"""The search beside other ways to choose, on spaces of which the truth is known.

python benchmarks/search.py [--sizes 1008 3024] [--seeds 100] [--first 1000]
  Simulated: truth = estimate x errors with the structure that measured rows show, one,
  two and three times as large. Success: the chosen one is within 3 % of the best. The
  others get as many visits as the search took: in the estimate's order, at random, by
  successive halving, by Optuna's TPE where it is installed.
python benchmarks/search.py --replay STORE [--replays 200]
  On a store of a dense space, visited in three rounds or more, as data/spaces/dense-cpu
  (400 small models on two cores): random sub-spaces,
  targets, floors, orders of visits. Success: the winner or its tie set holds the best
  one (by the median of all visits) or one whose visits overlap its. What the models
  lose is not known there: a column is made up, from their sizes, precision and noise.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
from scipy.special import ndtr

from fastlab.searches.beliefs import LOSSES, Beliefs, codes_of
from fastlab.searches.engine import (
    BETTER,
    VISITS,
    Goal,
    decided,
    explore,
    finalists,
)
from fastlab.searches.plan import beliefs_of
from fastlab.searches.spaces import Candidate
from fastlab.spec import Point
from fastlab.spec.grids import flat
from fastlab.sweeps.store import Store

SIZES = ("layers", "hidden", "kind", "way", "batch")
AXES = (
    np.array([2, 3, 4, 6, 8, 12, 16, 24]),
    np.array([128, 192, 256, 384, 512, 768, 1024]),
    np.arange(6),
    np.arange(3),
    np.array([1, 2, 4]),
)
NOISE = 0.03  # of one visit, in logs
Visit = Callable[[int], float]


@lru_cache
def space(n: int) -> tuple[Beliefs, np.ndarray, list[list[float]]]:
    """Beliefs of n candidates, a root of their errors' covariance, and their axes."""
    axes = AXES if n > 1008 else AXES[:4]
    each = np.array([*itertools.product(*axes)], float)[:n]
    layers, hidden, kind, way = each[:, :4].T
    batch = each[:, 4] if n > 1008 else np.ones(len(each))
    launches = layers * (12 + 8 * (way == 0))
    share = np.array([1, 0.5, 0.6, 0.4, 0.8, 0.7])[kind.astype(int)]
    work = 2e-9 * layers * hidden**2 * share * (1 + batch / 8)
    places = np.log(np.stack([layers, hidden, batch, launches], axis=1))
    labels = kind.astype(int), way.astype(int), np.arange(len(each))
    beliefs = Beliefs(np.log(work + 4e-6 * launches + 2e-6), *labels, places)
    some = np.arange(len(each))
    spread = beliefs.covariance(some, some) + 1e-9 * np.eye(len(some))
    return beliefs, np.linalg.cholesky(spread), [a.tolist() for a in axes]


def simulated(n: int, scale: float, seed: int) -> tuple[Beliefs, np.ndarray, list]:
    """Beliefs of n candidates, true seconds, and the axes that make them."""
    beliefs, root, axes = space(n)
    errors = root @ np.random.default_rng(seed).standard_normal(len(root))
    return beliefs, np.exp(beliefs.guess + scale * errors), axes


def searched(goal: Goal, visit: Visit) -> tuple[list[int], int]:
    """The winner and its ties, and how many were measured."""
    good, times = np.ones(len(goal.extra)), dict[int, float]()
    explore(goal, times, visit, lambda: good)
    first = finalists(goal, times, good)
    again = {i: [visit(i) for _ in range(VISITS)] for i in first}
    return decided(again, goal.extra), len(times)


def best_of(some: Iterable[int], visit: Visit) -> int:
    """The one that a visit of each finds fastest."""
    times = {int(i): visit(int(i)) for i in some}
    return min(times, key=times.__getitem__)


def halved(true: np.ndarray, m: int, rng: np.random.Generator) -> int:
    """Successive halving from 4/7 x 3 m: a third of the samples, two thirds, all."""
    some = rng.permutation(len(true))[: max(3, round(m * 12 / 7 / 2))]
    for share in (1 / 3, 2 / 3, 1):
        noise = NOISE / share**0.5 * rng.standard_normal(len(some))
        order = np.argsort(true[some] * np.exp(noise))
        some = some[order[: max(1, len(some) // 2)]] if share < 1 else some[order]
    return int(some[0])


def by_tpe(axes: list, m: int, visit: Visit, seed: int) -> int:
    """Optuna's TPE over the axes, so many trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = {v: i for i, v in enumerate(itertools.product(*axes))}
    names = SIZES[: len(axes)]

    def trial(asked: optuna.Trial) -> float:
        told = zip(names, axes, strict=True)
        values = [asked.suggest_categorical(name, axis) for name, axis in told]
        index = place[tuple(values)]
        asked.set_user_attr("index", index)
        return visit(index)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(trial, n_trials=m)
    return int(study.best_trial.user_attrs["index"])


def simulate(n: int, scale: float, seeds: range) -> None:
    """One line: success of each way in per cent, and the share that was measured."""
    hits: dict[str, list[bool]] = {}
    shares, spent, ties, near = [], [], [], []
    for seed in seeds:
        beliefs, true, axes = simulated(n, scale, seed)
        rng = np.random.default_rng(seed + 10**6)
        level = true.min() * (1 + BETTER)

        def visit(i: int, rng=rng, true=true) -> float:
            return float(true[i] * np.exp(NOISE * rng.standard_normal()))

        goal = Goal(beliefs, np.full(len(true), np.inf), np.zeros(len(true)))
        began = time.process_time()
        winners, m = searched(goal, visit)
        spent.append(time.process_time() - began)
        shares.append(m / len(true))
        ties.append(len(winners))
        near.append(int((true < 1.1 * true.min()).sum()))
        chosen = {
            "search": winners[0],
            "order": best_of(np.argsort(beliefs.guess)[:m], visit),
            "random": best_of(rng.permutation(len(true))[:m], visit),
            "halving": halved(true, m, rng),
        }
        if find_spec("optuna"):
            chosen["tpe"] = by_tpe(axes, m, visit, seed)
        for name, i in chosen.items():
            hits.setdefault(name, []).append(bool(true[i] <= level))
        tied = any(true[i] <= level for i in winners)
        hits.setdefault("or tie", []).append(bool(tied))
    told = ", ".join(f"{name} {100 * np.mean(own):.0f}" for name, own in hits.items())
    share = f"{100 * np.mean(shares):.2f} % measured (most {100 * max(shares):.1f})"
    rest = f"{np.mean(ties):.1f} in a tie set, {np.mean(near):.1f} within 10 %"
    print(f"n {n}, errors x{scale:g}, {len(seeds)} seeds: {share}; success %: {told}; "
          f"{rest}; {np.mean(spent):.2f} s of CPU", flush=True)  # fmt: skip


def lost(points: list[Point], rng: np.random.Generator) -> np.ndarray:
    """A made-up loss: layers, width and FFN help as much as is drawn, 16 bit harms."""
    logs = -sizes_of(points) @ rng.uniform(0, 1, 3)
    logs += half_of(points) * rng.uniform(0, 0.5)
    return np.exp(logs - logs.min() + 0.1 * rng.standard_normal(len(points)))


def sizes_of(points: list[Point]) -> np.ndarray:
    """Logs of layers, width and FFN [n, 3]."""
    shapes = [point.built_shape for point in points]
    return np.log([(s.layers, s.hidden, s.ffn) for s in shapes])


def half_of(points: list[Point]) -> np.ndarray:
    """[n] whether each is in less than 32 bit."""
    return np.array([point.recipe.format.bits < 32 for point in points], int)


class Dense:
    """A store's rows that every round has: seconds [rounds, n], and their estimates."""

    def __init__(self, store: str) -> None:
        rounds: dict[int, dict[str, float]] = {}
        rows = {}
        for row in Store(store).visits(samples=False):
            if row.measured and row.estimate:
                rounds.setdefault(row.round, {})[row.key] = row.measured.seconds
                rows[row.key] = row
        keys = [key for key in rows if all(key in own for own in rounds.values())]
        self.seconds = np.array([[own[key] for key in keys] for own in rounds.values()])
        points = [rows[key].point for key in keys]
        self.every = [Candidate(point, ((point, 1),)) for point in points]
        pairs = zip(self.every, keys, strict=True)
        self.found = [own.total([rows[key].estimate]) for own, key in pairs]
        self.truth = np.median(self.seconds, axis=0)

    def words(self) -> str:
        """How many, how noisy, how far from the estimate."""
        pace = np.median(self.seconds, axis=1)[:, None]
        noise = 100 * np.median(np.log(self.seconds / pace).std(axis=0))
        off = np.log(self.truth / [own["e2e_s"] for own in self.found]).std()
        near = (self.truth < 1.1 * self.truth.min()).sum()
        return (
            f"{len(self.truth)} candidates, {len(self.seconds)} rounds, {near} within "
            f"10 % of the fastest; sd of a visit {noise:.1f} % (the round's own speed "
            f"taken out), of log(measured / estimate) {off:.3f}"
        )


class Replay:
    """A search on a part of a dense space, with its floor, target, order of visits."""

    def __init__(self, dense: Dense, seed: int, judged: bool) -> None:
        self.rng = rng = np.random.default_rng(seed)
        n, self.judged = len(dense.truth), judged
        part = np.flatnonzero(rng.random(n) < rng.uniform(0.33, 0.8))
        every = [dense.every[i] for i in part]
        points = [own.point for own in every]
        self.loss, self.part = lost(points, rng), part
        self.floor = np.quantile(self.loss, rng.uniform(0.1, 0.9))
        self.seconds = dense.seconds[rng.permutation(len(dense.seconds))][:, part]
        self.truth, keeps = dense.truth[part], self.loss <= self.floor
        self.target = np.quantile(self.truth[keeps], rng.uniform(0.2, 1.0))
        self.able = keeps & (self.truth <= self.target)
        self.best = int(np.where(self.able, self.truth, np.inf).argmin())
        self.beliefs = beliefs_of(every, [dense.found[i] for i in part])
        blank, sizes = np.zeros(len(part), int), sizes_of(points)
        spread = LOSSES._replace(reach=1.5)
        guess = np.full(len(part), np.log(self.loss).mean())
        labels = half_of(points), blank, np.arange(len(part))
        self.losing = Beliefs(guess, *labels, sizes, spread)
        self.axes = [*zip(*map(axes_of, points), strict=True)]

    def visit(self, i: int) -> float:
        """Seconds of the first visit."""
        return float(self.seconds[0, i])

    def good(self, times: dict[int, float]) -> np.ndarray:
        """Chances to keep the floor: known beforehand, or of the visited alone."""
        seen, keeps = sorted(times), self.loss <= self.floor
        after = self.losing.after(seen, np.log(self.loss[seen]).tolist())
        chance = ndtr((math.log(self.floor) - after.mean) / after.sd)
        chance = keeps.astype(float) if self.judged else chance
        for i in seen:
            chance[i] = keeps[i] and times[i] <= self.target
        return chance

    def search(self) -> tuple[list[int], int]:
        """Winner and ties, and how many were measured: a tenth at most."""
        n, times = len(self.part), dict[int, float]()
        goal = Goal(self.beliefs, np.full(n, self.target), np.zeros(n))
        most = n // 10
        explore(goal, times, self.visit, lambda: self.good(times), lambda m: m < most)
        first = finalists(goal, times, self.good(times))
        again = {i: self.seconds[:, i].tolist() for i in first}
        again = {i: own for i, own in again.items() if median(own) <= self.target}
        return decided(again, goal.extra) if again else [], len(times)

    def hit(self, some: Iterable[int]) -> bool:
        """Whether one of them is good, and its visits overlap those of the best."""
        most = self.seconds[:, self.best].max()
        return any(self.able[i] and self.seconds[:, i].min() <= most for i in some)

    def fastest(self, some: Iterable[int]) -> list[int]:
        """The one of these that a visit finds fastest, of those that are good."""
        able = [int(i) for i in some if self.able[i]]
        return [min(able, key=self.visit)] if able else []

    def halved(self, m: int) -> list[int]:
        """Successive halving over three visits, as many as m candidates take in all."""
        able = np.flatnonzero(self.loss <= self.floor) if self.judged else None
        some = self.rng.permutation(len(self.part) if able is None else able)
        some = some[: max(3, round(m * 4 / 7))]
        for seen in (1, 2, 3):
            times = np.median(self.seconds[:seen, some], axis=0)
            bad = (self.loss[some] > self.floor) | (times > self.target)
            some = some[np.lexsort((times, bad))][: max(1, len(some) // 2)]
        return [int(some[0])]

    def tpe(self, m: int) -> list[int]:
        """Optuna's TPE over the fields, the candidate that is most like what it asks.

        What is bad counts as slow; where losses are known it is not like anything.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        codes = np.array([codes_of(axis) for axis in self.axes])
        known = self.loss <= self.floor if self.judged else True
        sampler = optuna.samplers.TPESampler(seed=int(self.rng.integers(2**31)))
        study = optuna.create_study(sampler=sampler)
        seen: set[int] = set()
        while len(seen) < m and len(study.trials) < 4 * m:
            trial = study.ask()
            asked = [
                trial.suggest_categorical(f"{k}", [*range(axis.max() + 1)])
                for k, axis in enumerate(codes)
            ]
            like = (codes == np.array(asked)[:, None]).sum(axis=0) * known
            i = int(like.argmax())
            slow = 2 * float(self.truth.max())
            study.tell(trial, self.visit(i) if self.able[i] else slow)
            seen.add(i)
        return self.fastest(seen)


def axes_of(point: Point) -> tuple[Any, ...]:
    """The fields of a point in which dense spaces differ."""
    row = flat(point)
    names = ("family", "layers", "hidden", "ffn", "phase", "batch", "prompt_len")
    recipe = ("precision", "attention", "cache", "runtime")
    return tuple(row[name] for name in (*names, *recipe))


def replay(store: str, replays: int, judged: bool) -> None:
    """Replays on a store; prints success, share measured, distinct optima."""
    dense, hits = Dense(store), dict[str, list[bool]]()
    shares, optima, ties, near = [], set(), [], []
    for seed in range(replays):
        one = Replay(dense, seed, judged)
        optima.add(int(one.part[one.best]))
        winners, m = one.search()
        shares.append(m / len(one.part))
        ties.append(len(winners))
        order = np.argsort(one.beliefs.guess, kind="stable")
        order = [i for i in order if not judged or one.loss[i] <= one.floor]
        chosen = {
            "search or tie": winners,
            "its winner": winners[:1],
            "order": one.fastest(order[:m]),
            "random": one.fastest(one.rng.permutation(order)[:m]),
            "halving": one.halved(m),
        }
        if find_spec("optuna"):
            chosen["tpe"] = one.tpe(m)
        for name, own in chosen.items():
            hits.setdefault(name, []).append(one.hit(own))
        hits.setdefault("the very best in the tie", []).append(one.best in winners)
        able = one.truth[one.able]
        near.append(int((able < 1.1 * able.min()).sum()))
    told = ", ".join(f"{name} {100 * np.mean(own):.1f}" for name, own in hits.items())
    known = "known beforehand" if judged else "known once measured"
    print(dense.words())
    print(
        f"{replays} replays, {len(optima)} distinct optima, losses {known}: success %: "
        f"{told}; "
        f"{100 * np.mean(shares):.1f} % measured (most {100 * max(shares):.1f}); "
        f"{np.mean(ties):.1f} in a tie set, {np.mean(near):.1f} good ones within 10 %",
        flush=True,
    )


def main() -> None:
    """Print a line for each size and scale, or for the replays."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[1008, 3024])
    options.add_argument("--scales", type=float, nargs="+", default=[1, 2, 3])
    options.add_argument("--seeds", type=int, default=100)
    options.add_argument("--first", type=int, default=1000, help="the first seed")
    options.add_argument("--replay", default="", help="a store of a dense space")
    options.add_argument("--replays", type=int, default=200)
    given = options.parse_args()
    if given.replay:
        for judged in (True, False):
            replay(given.replay, given.replays, judged)
        return
    for n, scale in itertools.product(given.sizes, given.scales):
        simulate(n, scale, range(given.first, given.first + given.seeds))


if __name__ == "__main__":
    main()
