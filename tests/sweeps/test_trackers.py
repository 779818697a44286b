"""--track: what a tracker gets of a sweep, and that none of its faults stops one."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fastlab.cli import main
from fastlab.cli import points as given
from fastlab.record import Estimate, Record
from fastlab.rows import table
from fastlab.spec import Point
from fastlab.sweeps.run import measured, rows_of
from fastlab.sweeps.store import Store
from fastlab.sweeps.trackers import FIGURE, Tracker, columns
from tests.sweeps.standin import SETTINGS, SHAPE, StandIn, points, taken

NAMES = ("tensorboard", "wandb", "trackio")
ENV = {"device": "a CPU", "host": "here", "copy_bytes_per_s": 1e9}


class Run:
    """Whatever is called of it is heard."""

    def __init__(self, heard: "Heard") -> None:
        self.heard = heard

    def __getattr__(self, name: str) -> Any:
        return self.heard.hear(name)


class Heard(list):
    """A tracker's stand-in: what it was called with, in order; fails where said."""

    fails = ""

    def hear(self, name: str) -> Any:
        def call(*args: Any, **how: Any) -> Any:
            self.append((name, args, how))
            if name == self.fails:
                raise OSError("no space\nleft")
            return Run(self) if name in ("init", "SummaryWriter") else args[:1]

        return call

    def of(self, *names: str) -> list[Any]:
        return [(args, how) for name, args, how in self if name in names]

    def names(self) -> list[str]:
        return [name for name, _, _ in self]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """All three packages are stand-ins that are heard."""
    heard = Heard()
    for name in ("torch.utils.tensorboard", "wandb", "trackio"):
        module = ModuleType(name)
        own = ("init", "Image", "log", "finish")
        for one in ("SummaryWriter",) if "." in name else own:
            setattr(module, one, heard.hear(one))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return heard


def swept(name: str, folder: Path, asked: Sequence[Point] = tuple(points(3))) -> Store:
    """A store that three points of a stand-in were measured into, and tracked."""
    bench, store = StandIn(folder, {1: "nan_time"}), Store(folder / "store")
    with closing(Tracker(name, store.folder)) as tracker:
        assert len(list(measured(asked, store, bench, list, tracker=tracker))) == 3
        tracker.figure(table(rows_of(asked, store, bench), store.envs()))
    return store


def test_what_is_logged_of_a_row():
    """128 tokens in 4 ms are 32,000 a second; 4 ms where 2.5 were expected: 1.6."""
    counts = dict.fromkeys(Estimate.__dataclass_fields__, 7)
    times = {"seconds": 2.5e-3, "low_s": 2e-3, "high_s": float("inf")}
    names = {"model": "m", "profile": "p", "bound": "memory"}
    expected = Estimate(**(counts | times | names))
    point = Point(SHAPE, weights="random:3")
    how = {"estimate": expected, "measured": taken(4e-3), "round": 2}
    found = columns(Record(point, "a CPU", SETTINGS.to_dict(), "ok", **how), ENV)
    worked_out = {
        **{"measured_ms": 4.0, "estimated_ms": 2.5, "ratio": 1.6, "ttft_ms": 4.0},
        **{"tokens_per_s": 32_000.0, "converged": 1.0, "round": 2.0, "n": 3.0},
        **{"point/layers": 2.0, "point/hidden": 64.0, "point/tied": 1.0},
        **{"point/family": "gpt2", "point/precision": "fp32", "host": "here"},
        **{"status": "ok", "bound": "memory", "point/weights": "random:3"},
    }
    assert {name: found[name] for name in worked_out} == worked_out
    assert not {"estimated_high_ms", "kl_nats", "reason", "tpot_ms"} & {*found}
    assert {*map(type, found.values())} == {float, str}


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_runs_of_wandb_and_trackio(heard, tmp_path, name):
    """The environment once, a step for each row, the figure, the end."""
    store = swept(name, tmp_path)
    assert heard.names() == ["init", "log", "log", "log", "Image", "log", "finish"]
    [(_, how)] = heard.of("init")
    [(env, run)] = {(row.env, row.run) for row in store.attempts()}
    assert how["config"] == store.envs()[env]
    assert (how["project"], how["group"], how["name"]) == ("fastlab", "store", run)
    logged = [(*args, *how.values()) for args, how in heard.of("log")]
    assert [step for _, step in logged] == [1, 2, 3, 3]
    rows = [values for values, _ in logged[:3]]
    assert [row["point/weights"] for row in rows] == [f"random:{n}" for n in range(3)]
    assert [row["status"] for row in rows] == ["ok", "nonfinite", "ok"]  # as on disk
    assert [row.get("measured_ms") for row in rows] == [1000.0, None, 3000.0]
    [((pixels,), _)] = heard.of("Image")
    assert logged[3][0] == {FIGURE: (pixels,)}
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 4 and pixels.min() < 255


def test_wandb_needs_no_account_and_leaves_other_runs_alone(
    heard, tmp_path, monkeypatch
):
    swept("wandb", tmp_path)
    monkeypatch.setenv("WANDB_MODE", "online")
    (tmp_path / "store").rename(tmp_path / "other")
    swept("wandb", tmp_path)
    first, second = (how for _, how in heard.of("init"))
    assert (first["mode"], second["mode"]) == ("offline", "online")
    assert first["reinit"] == "create_new"
    assert first["dir"] == str(tmp_path / "store" / "track")


def test_a_summary_writer(heard, tmp_path):
    store = swept("tensorboard", tmp_path)
    [((folder,), _)] = heard.of("SummaryWriter")
    [run] = {row.run for row in store.attempts()}
    assert folder == str(tmp_path / "store" / "track" / run)
    numbers = {(args[0], args[2]): args[1] for args, _ in heard.of("add_scalar")}
    assert numbers["measured_ms", 3] == 3000 and ("measured_ms", 2) not in numbers
    texts = {(args[0], args[2]): args[1] for args, _ in heard.of("add_text")}
    assert texts["status", 2] == "nonfinite" and texts["point/phase", 1] == "prefill"
    env = json.loads(texts["environment", 0].strip("`"))
    assert env == {"device": "a stand-in"}
    [(args, how)] = heard.of("add_image")
    assert (args[0], args[2], how) == (FIGURE, 3, {"dataformats": "HWC"})
    assert heard.names()[-1] == "close"


def test_no_tracker(heard, tmp_path):
    swept("", tmp_path)
    assert heard == [] and not (tmp_path / "store" / "track").exists()


@pytest.mark.parametrize("fails", ["init", "log", "Image", "finish"])
def test_one_that_fails_is_said_once_and_the_sweep_goes_on(
    heard, tmp_path, capsys, fails
):
    heard.fails = fails
    assert len(swept("wandb", tmp_path).records()) == 3
    said = "wandb failed and gets no more; every row is kept: OSError: no space left"
    assert capsys.readouterr().err.strip() == said
    logged = {"init": 0, "log": 1, "Image": 3, "finish": 4}[fails]
    assert heard.names().count("log") == logged
    assert "finish" in heard.names() or fails == "init"


def test_what_a_tracker_prints_is_no_result(heard, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["trackio"], "finish", lambda: print("uploading"))
    swept("trackio", tmp_path)
    assert capsys.readouterr() == ("", "uploading\n")


def test_an_unknown_one_is_said_before_any_work(heard, tmp_path):
    with pytest.raises(ValueError, match="did you mean tensorboard"):
        Tracker("tensorbord", tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["none", "a folder of that name"])
def test_an_absent_package_is_said_before_the_sweep(tmp_path, monkeypatch, name, what):
    home = "torch.utils.tensorboard" if name == "tensorboard" else name
    module = None if what == "none" else ModuleType(home)
    monkeypatch.setitem(sys.modules, home, module)
    monkeypatch.setattr(given, "bench_of", None)  # any work would fail
    done = sweep(tmp_path, "--track", name)
    assert done.exit_code != 0
    assert f"track='{name}' needs {name}: pip install {name} (" in done.output
    assert done.output.count("\n") == 1 and not (tmp_path / "store").exists()


def sweep(folder: Path, *more: str) -> Any:
    """`fastlab sweep` of three points."""
    file = folder / "sweep.yaml"
    seeds = ", ".join(f"'random:{n}'" for n in range(3))
    file.write_text(f"grids: [{{model: tiny-gpt2, weights: [{seeds}]}}]\n")
    args = ["sweep", str(file), "--store", str(folder / "store"), *more]
    return CliRunner().invoke(main, args)


class Interrupted(StandIn):
    def stop(self, record: Record) -> Record:
        raise KeyboardInterrupt


@pytest.mark.parametrize("fault", ["stop", "slow"])
def test_the_command_closes_it_also_after_ctrl_c(heard, tmp_path, monkeypatch, fault):
    bench = Interrupted(tmp_path, {1: fault})
    monkeypatch.setattr(given, "bench_of", lambda *_: bench)
    done = sweep(tmp_path, "--track", "wandb", "--isolation", "inline")
    told = {"stop": (130, ["init", "log", "finish"]), "slow": (0, [])}
    status, names = told[fault]
    assert done.exit_code == status
    assert heard.names() == names or heard.names()[-3:] == ["Image", "log", "finish"]


# ---- the packages themselves, where they are installed


def test_tensorboard_reads_it(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    store = swept("tensorboard", tmp_path)
    [run] = (store.folder / "track").iterdir()
    events = EventAccumulator(str(run)).Reload()
    times = [(one.step, one.value) for one in events.Scalars("measured_ms")]
    assert times == [(1, 1000.0), (3, 3000.0)]
    assert FIGURE in events.Tags()["images"]
    assert "environment/text_summary" in events.Tags()["tensors"]


def test_wandb_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", exc_type=ImportError)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    store = swept("wandb", tmp_path)
    [run] = (store.folder / "track" / "wandb").glob("offline-run-*/run-*.wandb")
    data = run.read_bytes()
    assert b"random:2" in data and b"a stand-in" in data
    assert list(run.parent.rglob("*.png"))


def test_trackio_keeps_it_here(tmp_path, monkeypatch):
    import sqlite3

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    swept("trackio", tmp_path)
    with closing(sqlite3.connect(tmp_path / "trackio" / "fastlab.db")) as base:
        lines = base.execute("select step, metrics from metrics order by id").fetchall()
    assert [step for step, _ in lines] == [1, 2, 3, 3]
    assert json.loads(lines[2][1])["measured_ms"] == 3000
