"""`fastlab sweep` over a stand-in that misbehaves: words, exit status, no orphan."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastlab.cli import main
from fastlab.cli import points as given
from fastlab.sweeps.store import Store
from tests.sweeps.standin import in_place_of_bench_of
from tests.sweeps.test_isolation import gone, lines, wait_until

GRID = "about: a test\ngrids: [{model: tiny-gpt2, weights: [%s]}]\n"
ROOT = Path(__file__).parents[2]


def written(folder: Path, faults: dict[int, str]) -> tuple[list[str], dict[str, str]]:
    """A sweep of three points: its command line and its environment."""
    file = folder / "sweep.yaml"
    file.write_text(GRID % ", ".join(f"'random:{n}'" for n in range(3)))
    environment = {
        "FASTLAB_STAND_IN": str(folder),
        "FASTLAB_FAULTS": json.dumps(faults),
    }
    return ["sweep", str(file), "--store", str(folder / "store")], environment


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Sweeps three points with these faults by seed."""

    def run(faults: dict[int, str], *more: str) -> Result:
        args, environment = written(tmp_path, faults)
        monkeypatch.setattr(given, "bench_of", in_place_of_bench_of)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, [*args, *more])

    return run


def test_what_died_twice_is_a_table_and_exit_status_1(sweep, tmp_path):
    bad = {0: "crash", 2: "hang"}
    done = sweep(bad, "--timeout-s", "0.5")
    assert done.exit_code == 1
    assert "measured now: 2 poison, 1 crash, 1 ok, 1 timeout; in all: " in done.output
    _, told = done.output.split("without a measurement\n")
    assert told.count("left alone after 2 attempts that died") == 2
    assert "SIGSEGV" in told and "no row within 0.5 s" in told and " ok " not in told
    again = sweep(bad)
    assert again.exit_code == 1 and "measured now: nothing; in all" in again.output
    mended = sweep({}, "--rerun", "failed")
    assert mended.exit_code == 0 and "in all: 3 ok" in mended.output
    assert "without a measurement" not in mended.output
    assert (tmp_path / "store" / "table.csv").read_text().count("\n") == 4


def test_the_time_is_up_even_where_a_point_hangs(sweep, tmp_path):
    done = sweep({1: "hang"}, "--for-s", "1")
    assert done.exit_code == 0
    assert "stopped; the time is up. Go on: fastlab" in done.output
    assert "measured now: 1 ok; in all: 1 ok" in done.output
    assert all(map(gone, lines(tmp_path, "workers")))


def test_a_store_that_is_deleted_ends_it_with_words(sweep):
    done = sweep({1: "delete"})
    assert done.exit_code == 1
    assert "store was deleted or moved while it was written to" in done.output
    assert "Traceback" not in done.output


IN_PLACE = """
from fastlab.cli import main, points
from tests.sweeps.standin import in_place_of_bench_of
points.bench_of = in_place_of_bench_of
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_every_row_and_says_how_it_goes_on(tmp_path, how):
    args, environment = written(tmp_path, {1: "hang"})
    process = subprocess.Popen(
        [sys.executable, "-c", IN_PLACE, *args],
        **{"cwd": ROOT, "env": os.environ | environment, "stderr": subprocess.PIPE},
        # A shell starts what runs in its background with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        text=True,
    )
    wait_until(lambda: lines(tmp_path, "measured") == [0, 1])
    process.send_signal(how)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "every finished row is kept. Go on: fastlab sweep" in err
    assert "Traceback" not in err
    assert [r.status for r in Store(tmp_path / "store").records()] == ["ok"]
    assert all(map(gone, lines(tmp_path, "workers")))
