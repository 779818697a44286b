"""data/spaces/dense-cpu: the measured space on which searches are replayed."""

from collections import Counter
from pathlib import Path

from benchmarks.search import Dense, Replay
from fastlab.sweeps.files import read_sweep
from fastlab.sweeps.store import Store

FOLDER = Path("data/spaces/dense-cpu")


def test_every_point_was_measured_in_every_round():
    """The 400 of the file beside it, three times or more each, and nothing else."""
    health = Store(FOLDER).health()
    assert (health.bad, health.torn) == ([], [])
    visits = Store(FOLDER).visits(samples=False)
    assert {visit.status for visit in visits} == {"ok"}
    times = Counter(visit.point for visit in visits)
    assert set(times) == set(read_sweep(FOLDER.with_suffix(".yaml")).points)
    assert min(times.values()) == max(times.values()) >= 3


def test_a_search_on_it_measures_a_tenth_and_finds_what_is_as_fast_as_the_best():
    dense = Dense(str(FOLDER))
    replays = [Replay(dense, seed, judged=True) for seed in range(20)]
    assert len({int(one.part[one.best]) for one in replays}) >= 10
    found = [one.search() for one in replays]
    assert all(
        m <= len(one.part) / 10 for (_, m), one in zip(found, replays, strict=True)
    )
    hits = [one.hit(winners) for (winners, _), one in zip(found, replays, strict=True)]
    assert sum(hits) >= 19
