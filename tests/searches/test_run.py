"""search() on a store: few rows, none twice, resumed as if never stopped."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import fastlab as fl
from fastlab.cli import main
from fastlab.clock.timing import Settings
from fastlab.latency.devices import Device
from fastlab.latency.estimates import estimate
from fastlab.record import Quality, Record
from fastlab.searches import run as module
from fastlab.searches.result import Result
from fastlab.spec import Point
from fastlab.sweeps.plan import Target
from fastlab.sweeps.store import Store
from tests.figures.made import measurement

SPACE = """
about: 48 small models
grids:
  - {family: llama, vocab: 64, heads: 2, layers: [1, 2, 3, 4], hidden: [32, 48, 64, 96],
     precision: [fp32, bf16, autocast-bf16]}
"""
TRAINED = "trained:" + "0" * 64


class Stand(Target):
    """A bench that says at once what a point takes: its estimate, off by its key."""

    def __init__(self, profile: Device, settings: Settings, stop: int = 10**6) -> None:
        super().__init__("stand-in", settings, profile)
        self.stop, self.asked = stop, list[Point]()

    def environment(self) -> dict[str, Any]:
        return {"device": self.name, "host": "here"}

    def off(self, point: Point) -> float:
        return math.exp(0.3 * (int(point.key[:4], 16) / 0xFFFF - 0.5))

    def measure(self, point: Point) -> Record:
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt
        self.asked.append(point)
        (own,) = estimate([point], self.profile)
        taken = measurement(own.seconds * self.off(point))
        lost = None
        if point.weights == TRAINED:
            worse = 1 + 0.2 * point.recipe.pruning.layers
            lost = Quality("fp32", "0" * 64, 0.1, 0.9, 1.0, 2.0 * worse)
            lost = replace(lost, dense_bits_per_byte=2.0)
        how = self.settings.to_dict()
        return Record(point, self.name, how, "ok", own, taken, lost)


@pytest.fixture
def bench(profile: Device, quick: Settings, monkeypatch: pytest.MonkeyPatch) -> Stand:
    made = Stand(profile, quick)
    monkeypatch.setattr(module, "_bench", lambda *_: made)
    return made


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def search(space: Path, store: str, **how: Any) -> Result:
    return fl.search(space, store=space.parent / store, isolation="inline", **how)


def answer(result: Result) -> tuple[Any, ...]:
    return result.winners, dict(result.measured), result.visits, result.words()


def test_the_fastest_is_found_with_few_rows(space, bench):
    result = search(space, "a")
    each = [own.point for own in result.plan.candidates]
    true = [
        e.seconds * bench.off(p)
        for e, p in zip(estimate(each, bench.profile), each, strict=True)
    ]
    assert len(true) == 48
    assert result.winners[0] == true.index(min(true))
    assert 18 <= len(result.measured) <= 24
    visits = len(result.measured) + 3 * len(result.visits)
    assert len(bench.asked) == visits and len(result.visits) == 4
    rows = result.table
    assert rows["verdict"].iloc[0] == "winner" and len(rows) == 48
    assert rows["latency_ms"].iloc[0] == pytest.approx(1e3 * min(true))
    lost = rows["verdict"][1:]
    assert lost.str.match(r"tie|slower: ×|no better|takes as long").all()
    assert (result.frontier["latency_ms"].diff().dropna() >= 0).all()
    ends = result.along()
    assert ends[-1][1] == math.inf and result.plan.candidates[ends[-1][2]].point


def test_stopped_anywhere_it_goes_on_as_if_never_stopped(space, bench):
    whole = answer(search(space, "whole"))
    calls = len(bench.asked)
    for stop in (0, 1, 7, calls - 5, calls - 1):
        bench.asked, bench.stop = [], stop
        with pytest.raises(KeyboardInterrupt):
            search(space, f"part{stop}")
        bench.stop = calls
        assert answer(search(space, f"part{stop}")) == whole
        assert len(bench.asked) == calls  # so nothing was measured twice
        assert answer(search(space, f"part{stop}")) == whole
        assert len(bench.asked) == calls


def test_rows_of_a_sweep_are_taken_as_they_are(space, bench):
    first = search(space, "a", budget_points=5)
    assert len(first.measured) == 5 and "the budget is spent" in first.words()[0]
    more = search(space, "a")
    assert first.measured.items() <= more.measured.items()


def test_a_floor_of_judged_models(space, bench, monkeypatch):
    """Layers cut by a half lose 10 %, by a quarter 5 %: at 6 % the quarter wins."""
    shares = "prune_layers: [0, 0.25, 0.5], prune_layer_choice: [first, last]"
    space.write_text(
        f"grids: [{{family: llama, vocab: 64, layers: 8, hidden: 64, {shares}}}]"
    )
    made = module.read_space

    def trained(*args: Any) -> Any:
        file, every = made(*args)
        every = [
            replace(
                own,
                point=replace(own.point, weights=TRAINED),
                calls=tuple((replace(p, weights=TRAINED), n) for p, n in own.calls),
            )
            for own in every
        ]
        return replace(file, trained="a folder"), every

    monkeypatch.setattr(module, "read_space", trained)
    result = search(space, "a", floor=0.06)
    winner = result.plan.candidates[result.winners[0]].point
    assert winner.recipe.pruning.layers == 0.25
    lost = result.table.set_index("prune_layers")["verdict"]
    assert (lost[0.5] == "floor: loses 10 % of 6.0 %").all()
    none = search(space, "b", floor=0.0)
    assert none.plan.candidates[none.winners[0]].point.recipe.prunes is False


def test_what_has_no_time_loses_with_its_reason(space, bench, monkeypatch):
    measure = bench.measure

    def fails(point: Point) -> Record:
        record = measure(point)
        bad = point.recipe.precision == "bf16"
        made = replace(record, status="oom", measured=None, reason="no room")
        return made if bad else record

    monkeypatch.setattr(bench, "measure", fails)
    result = search(space, "a")
    rows = result.table.set_index("precision")
    assert rows.loc["bf16", "verdict"].str.contains("failed: oom: no room").any()
    winner = result.plan.candidates[result.winners[0]].point
    assert winner.recipe.precision != "bf16"
    monkeypatch.setattr(
        bench, "measure", lambda p: replace(measure(p), status="oom", measured=None)
    )
    nothing = search(space, "b")
    assert nothing.winners == [] and "none has a time" in nothing.words()[-1]


def test_where_no_measured_one_meets_the_target_the_closest_is_told(
    space, bench, monkeypatch
):
    """The targets are just met as estimated, all take three times as long."""
    monkeypatch.setattr(bench, "off", lambda point: 3.0)
    asked = space.with_name("asked.yaml")
    asked.write_text(
        "mine: {title: t, prompt: {fixed: 8, source: s}, answer: {fixed: 0, source: s},"
        " arrivals: {users: 1, source: s}, targets: {e2e_s: 0.0006, source: s},"
        " floor: {loss: 0.02, source: s}}"
    )
    result = search(space, "a", scenario=str(asked), floor=None)
    assert result.winners == []
    said = result.words()[-1]
    assert (
        said.startswith("none is good; the closest is llama 1x")
        and "target: e2e" in said
    )


QUEUE = (
    "mine: {title: t, prompt: {low: 4, high: 12, source: s}, answer: {fixed: 4, source:"
    " s}, arrivals: {rate: RATE, source: s}, targets: {e2e_s: 1, source: s},"
    " floor: {loss: 0.02, source: s}}"
)


def test_under_arrivals_requests_wait_and_too_many_saturate(space, bench):
    """As measured: percentiles of the served, and a load of so many a second."""
    asked = space.with_name("asked.yaml")
    asked.write_text(QUEUE.replace("RATE", "60"))
    result = search(space, "a", scenario=str(asked), floor=None)
    best = result.winners[0]
    own, told = result.plan.candidates[best], result.times[best]
    each = [
        estimate([p], bench.profile)[0].seconds * bench.off(p) for p, _ in own.calls
    ]
    assert told == pytest.approx(own.queue.times(own.point.built_shape, each))
    assert told["e2e_s"] > own.alone(each)["e2e_s"] and 0 < told["load"] < 0.9
    assert "load 0." in result.words()[1]
    assert (result.table["load"].head(4) < 0.9).all()
    asked.write_text(QUEUE.replace("RATE", "400"))
    some = search(space, "a", scenario=str(asked), floor=None)
    assert some.table["verdict"].str.startswith("saturated: load ").any()
    asked.write_text(QUEUE.replace("RATE", "60000"))
    with pytest.raises(ValueError, match=r"closest is llama 1x.*saturated: load"):
        search(space, "a", scenario=str(asked), floor=None)


def test_elsewhere_the_estimate_answers_and_nothing_is_kept(space, tmp_path):
    result = fl.search(
        space, on="h200", store=tmp_path / "none", scenario="in-car-voice", floor=None
    )
    assert result.measured == {} and not (tmp_path / "none").exists()
    assert result.words()[0].startswith(
        "estimated, none of 48 candidates measured on NVIDIA H200"
    )
    rows = result.table
    assert (rows["basis"] == "estimated").all() and rows["usd_per_1000"].notna().all()
    assert {"winner", "tie"} <= set(rows["verdict"])
    best = rows["usd_per_1000"].iloc[0]
    hours = rows["latency_ms"].iloc[0] / 3.6e6
    assert best == pytest.approx(1000 * hours * result.price)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (["--scenario", "in-car-voise"], "did you mean in-car-voice"),
        (["--scenario", "in-car-voice"], "floor=0.05 needs quality"),
        (["--floor", "0.01", "--on", "h200"], "needs quality, and no row in"),
        (["--floor", "much"], "floor='much' must be a finite number"),
        (["--lam", "0"], "lam=0.0 must be a finite number > 0"),
        (["--on", "h2000"], "unknown device 'h2000'; did you mean"),
        (["--budget-points", "0"], "budget_points=0 must be a whole number"),
        (["--budget-minutes", "-1"], "budget_minutes=-1.0"),
        (["--model", "tiny-gpt3"], "did you mean tiny-gpt2"),
        (["--space", "nowhere.yaml"], "nowhere.yaml"),
        (["--isolation", "thread"], "isolation='thread' is not one of"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(space, bench, how, words):
    args = ["search", "--space", str(space), "--isolation", "inline", *how]
    run = CliRunner().invoke(main, [*args, "--store", str(space.parent / "s")])
    assert run.exit_code == 2, run.output
    assert words in run.output and "Traceback" not in run.output
    assert bench.asked == [] and not (space.parent / "s").exists()


def test_the_command_shows_winner_frontier_and_lambda(space, bench):
    folder = space.parent / "s"
    args = [
        "search",
        "--space",
        str(space),
        "--isolation",
        "inline",
        "--store",
        str(folder),
    ]
    run = CliRunner().invoke(main, args)
    assert run.exit_code == 0, run.output
    for words in (
        "winner: llama",
        "frontier",
        "lambda 0 to",
        "of 48 candidates measured",
    ):
        assert words in run.output
    assert (folder / "search.csv").exists() and Store(folder).health().bad == []
