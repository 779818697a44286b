"""The search beside other ways to choose, on spaces of which the truth is known.

python benchmarks/search.py [--sizes 1008 3024] [--seeds 100] [--first 1000]
  Simulated: truth = estimate x errors with the structure that measured rows show, one,
  two and three times as large. Success: the chosen one is within 3 % of the best. The
  others get as many visits as the search took: in the estimate's order, at random, by
  successive halving, by Optuna's TPE where it is installed.
python benchmarks/search.py --replay STORE [--replays 200]
  On a store of a dense space, visited in three rounds or more: random sub-spaces,
  targets, floors, orders of visits. Success: the winner or its tie set holds the best
  one (by the median of all visits) or one whose visits overlap its. What the models
  lose is not known there: a column is made up from their parameters, with noise.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from statistics import median

import numpy as np
from scipy.special import ndtr

from fastlab.searches.beliefs import LOSSES, Beliefs
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


def simulated(n: int, scale: float, seed: int) -> tuple[Beliefs, np.ndarray, list]:
    """Beliefs of n candidates, true seconds, and the axes that make them."""
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
    some, rng = np.arange(len(each)), np.random.default_rng(seed)
    spread = beliefs.covariance(some, some) + 1e-9 * np.eye(len(some))
    errors = np.linalg.cholesky(spread) @ rng.standard_normal(len(some))
    return beliefs, np.exp(beliefs.guess + scale * errors), [a.tolist() for a in axes]


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


def lost(parameters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A made-up loss: the less the more parameters, with a noise of its own."""
    return (parameters / parameters.max()) ** -0.7 * np.exp(
        0.15 * rng.standard_normal(len(parameters))
    )


def replay(store: str, replays: int, settle: Callable[[str], None] = print) -> None:
    """Replays on a store; prints success, share measured, distinct optima."""
    rounds: dict[int, dict[str, float]] = {}
    records = {}
    for row in Store(store).visits(samples=False):
        if row.measured and row.estimate:
            rounds.setdefault(row.round, {})[row.key] = row.measured.seconds
            records[row.key] = row
    keys = [key for key in records if all(key in own for own in rounds.values())]
    seconds = np.array([[own[key] for key in keys] for own in rounds.values()])
    every = [Candidate(records[key].point, ((records[key].point, 1),)) for key in keys]
    found = [
        own.total([records[k].estimate]) for own, k in zip(every, keys, strict=True)
    ]
    size = np.array([records[key].estimate.parameters for key in keys], float)
    truth, low, high = np.median(seconds, axis=0), seconds.min(0), seconds.max(0)
    spread = np.log(seconds / np.median(seconds, axis=1)[:, None]).std(axis=0)
    settle(
        f"{len(keys)} candidates, {len(rounds)} rounds; a visit's sd, the round's own "
        f"speed taken out: median {100 * np.median(spread):.1f} %; log(measured / "
        f"estimate): sd {np.log(truth / [own['e2e_s'] for own in found]).std():.3f}"
    )
    hits: dict[str, list[bool]] = {}
    shares, optima, ties = [], set(), []
    for seed in range(replays):
        rng = np.random.default_rng(seed)
        part = np.flatnonzero(rng.random(len(keys)) < rng.uniform(0.4, 1.0))
        loss = lost(size, rng)[part]
        floor = np.quantile(loss, rng.uniform(0.1, 0.9))
        target = np.quantile(truth[part][loss <= floor], rng.uniform(0.2, 1.0))
        order = rng.permutation(len(seconds))
        able = np.flatnonzero((loss <= floor) & (truth[part] <= target))
        best = part[able[truth[part][able].argmin()]]
        optima.add(int(best))
        beliefs = beliefs_of([every[i] for i in part], [found[i] for i in part])
        goal = Goal(beliefs, np.full(len(part), target), np.zeros(len(part)))
        guess = np.log((size[part] / size.max()) ** -0.7)
        blank = np.zeros(len(part), int)
        places = np.log(size[part])[:, None]
        losing = Beliefs(guess, blank, blank, np.arange(len(part)), places, LOSSES)
        times: dict[int, float] = {}

        def good(times=times, losing=losing, loss=loss, floor=floor, target=target):
            seen = sorted(times)
            after = losing.after(seen, np.log(loss[seen]).tolist())
            chance = ndtr((math.log(floor) - after.mean) / after.sd)
            for i in seen:
                chance[i] = loss[i] <= floor and times[i] <= target
            return chance

        def visit(i: int, part=part, order=order) -> float:
            return float(seconds[order[0], part[i]])

        explore(goal, times, visit, good)
        first = finalists(goal, times, good())
        again = {i: [float(s) for s in seconds[order, part[i]]] for i in first}
        again = {i: own for i, own in again.items() if median(own) <= target}
        winners = decided(again, goal.extra) if again else []
        m = len(times)
        shares.append(m / len(part))
        ties.append(len(winners))

        def hit(some: Iterable[int], part=part, able=able, best=best) -> bool:
            mine = [part[i] for i in some if i in able]
            return any(low[i] <= high[best] for i in mine)

        def first_of(some: Iterable[int], able=able, visit=visit) -> list[int]:
            kept = [int(i) for i in some if i in able]
            return [min(kept, key=visit)] if kept else []

        chosen = {
            "search or tie": winners,
            "search's winner": winners[:1],
            "order": first_of(np.argsort(beliefs.guess)[:m]),
            "random": first_of(rng.permutation(len(part))[:m]),
        }
        for name, own in chosen.items():
            hits.setdefault(name, []).append(hit(own))
    told = ", ".join(f"{name} {100 * np.mean(own):.1f}" for name, own in hits.items())
    settle(
        f"{replays} replays, {len(optima)} distinct optima: success %: {told}; "
        f"{100 * np.mean(shares):.1f} % measured (most {100 * max(shares):.0f}); "
        f"{np.mean(ties):.1f} in a tie set"
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
        replay(given.replay, given.replays)
        return
    for n, scale in itertools.product(given.sizes, given.scales):
        simulate(n, scale, range(given.first, given.first + given.seeds))


if __name__ == "__main__":
    main()
