"""Every explorer under ipywidgets 8 and 7.7 (Colab's): one change is one redraw.

`make` puts 7.7.1 into .venv/widgets7, with ipython-genutils, which it imports. It needs
nothing else of what it asks for: comms come from the ipykernel at hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastlab as fl
from tests.view.explorers import MAKERS

ROOT = Path(__file__).parents[2]
OLD = Path(sys.prefix) / "widgets7"
NO_OLD = f"no ipywidgets 7.7.1 in {OLD}: `make test` puts it there"


def ran(path: str) -> dict[str, object]:
    """What explorers.py printed, with these folders first on the path."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.view.explorers"],
        env=os.environ | {"PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_explorer_is_left_out():
    assert set(MAKERS) == set(fl.explorers.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["7.7.", "8."])
def test_one_change_of_any_control_is_one_redraw(version):
    old = version == "7.7."
    if old and not (OLD / "ipywidgets").exists():
        pytest.skip(NO_OLD)
    found = ran(f"{OLD}{os.pathsep}{ROOT}" if old else str(ROOT))
    assert found["version"].startswith(version)
    for explorer, controls in found["redraws"].items():
        assert controls, explorer
        for name, counts in controls.items():
            assert set(counts) == {1}, f"{explorer}, {name}: {counts}"
