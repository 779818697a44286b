"""What README shows is run, so that it stays true."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastlab.health.software import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"<!-- tested(?P<same>: same output)? -->\n```(?P<kind>\w+)\n(?P<code>.*?)```\n"
    r"(?:```text\n(?P<output>.*?)```)?",
    re.DOTALL,
)
BLOCKS = list(BLOCK.finditer(README))


def run(block: re.Match[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The block as a reader would run it, in an empty folder."""
    binaries = str(Path(sys.executable).parent)
    env = os.environ | {"PATH": os.pathsep.join([binaries, os.environ["PATH"]])}
    # One thread: two of them wait for each other on a machine that is shared.
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    python, shell = [sys.executable, "-c"], ["bash", "-ec"]
    command = [*(python if block["kind"] == "python" else shell), block["code"]]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize(
    "block", BLOCKS, ids=[b["code"].split("\n")[0] for b in BLOCKS]
)
def test_what_is_marked_as_tested_runs(block, tmp_path):
    done = run(block, tmp_path)
    assert done.returncode == 0, done.stderr
    if block["same"]:
        assert done.stdout == block["output"]
    elif block["output"]:  # times differ, columns do not
        # The column names; their widths depend on the figures below them.
        shown, said = (t.split("\n")[0].split() for t in (done.stdout, block["output"]))
        # "rates" is a column where a busy machine was calibrated.
        assert [name for name in shown if name != "rates"] == said


def test_predict_devices_measure_and_python_are_among_them():
    tested = "".join(block["code"] for block in BLOCKS)
    for words in ("fastlab predict", "fastlab devices", "fastlab measure", "import fa"):
        assert words in tested


def test_every_command_is_shown_and_every_shown_one_exists():
    from fastlab.cli import main

    blocks = "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    shown = set(re.findall(r"^fastlab (\w+)", blocks, re.MULTILINE))
    named = set(re.findall(r"`\S*fastlab (\w+)", README))
    assert shown <= set(main.commands)
    assert set(main.commands) <= shown | named


def test_the_scoreboard_is_what_score_prints():
    """To half a point: another scipy may fit a little differently."""
    from click.testing import CliRunner

    from fastlab.cli import main

    folder = "data/reference/xeon-2-threads"
    done = CliRunner().invoke(main, ["score", str(ROOT / folder)])
    shown = README.split(f"fastlab score {folder}\n```\n```text\n")[1].split("```")[0]
    for line in shown.splitlines()[1:8]:
        name, *_ = line.rsplit(maxsplit=5)
        (found,) = [x for x in done.stdout.splitlines() if x.startswith(name + " ")]
        said, printed = ([float(v) for v in x.split()[-5:]] for x in (line, found))
        assert said == pytest.approx(printed, abs=0.5)
    *_, last = shown.splitlines()
    assert re.sub(r"[\d.]+", "#", last) == re.sub(
        r"[\d.]+", "#", done.stdout.splitlines()[-1]
    )


def test_every_make_target_is_named_and_every_named_one_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    named = set(re.findall(r"`(?:\w+=\w+ )?make (\w+)", README))
    assert {"demo", "test", "lab", "gpu"} <= named <= targets


def test_every_file_it_names_exists():
    named = re.findall(r"`((?:fastlab|tests|data|notebooks)/[\w./]+)`", README)
    made_later = {"data/reference/", "notebooks/NN_name.ipynb"}
    assert len(named) > 8
    for path in set(named) - made_later:
        assert (ROOT / path).exists(), path


def test_it_is_short():
    assert len(README.splitlines()) < 280


def test_the_prose_below_the_scoreboard_is_of_the_rows():
    """Visits apart, speed-ups, and the quieter rows: as rounded there."""
    from fastlab.scores.scoreboard import score
    from fastlab.sweeps.reference import Reference
    from fastlab.sweeps.store import Store

    said = " ".join(README.split("Rows (but the ladder's)")[1].split("## ")[0].split())
    visits: dict[str, list[float]] = {}
    folder = ROOT / "data" / "reference" / "xeon-2-threads"
    for row in Store(folder).visits(samples=False):
        visits.setdefault(row.key, []).append(row.measured.seconds)
    apart = [max(v) / min(v) - 1 for v in visits.values() if len(v) == 3]
    assert f"lie {100 * sorted(apart)[len(apart) // 2]:.0f} % apart" in said
    for name, words in (
        ("xeon-2-threads", "Speed-ups ({n:,} pairs) are off by {median:.1f} %"),
        ("xeon-2-threads-smaller", "speed-ups {median:.1f} %, {inside:.0f} % inside"),
    ):
        rows = Reference(folder.parent / name)
        board = score(rows.records, rows.profile)
        every = board.speedups[0]
        figures = {"n": every.n, "median": every.median, "inside": board.coverage}
        assert words.format(**figures) in said


def test_what_it_says_of_the_prior_is_in_its_scores():
    stored = json.loads((ROOT / "data" / "prior.json").read_text(encoding="utf-8"))
    for what, words in (
        ("linear 16-bit (aic_gemm)", "16-bit products {:.1f} %"),
        ("vLLM (llm_inference_bench)", "generations of vLLM {:.1f} %"),
    ):
        (one,) = (
            score
            for score in stored["scores"]
            if (score["what"], score["of"]) == (what, "all")
            and score["method"] == "prior, GPU left out"
        )
        assert words.format(one["median"]) in " ".join(README.split())
