"""The package as a whole: light to import, whole, and silent about other things."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

import fastlab as fl

ROOT = Path(__file__).parents[1]
TEXTS = ("*.py", "*.md", "*.ipynb", "*.toml", "*.yml", "*.yaml", "Makefile")


def tracked() -> list[Path]:
    found = [p for pattern in TEXTS for p in ROOT.rglob(pattern)]
    own = [p for p in found if not set(p.parts) & {".venv", "build", "results"}]
    return [p for p in own if not any(part.endswith(".egg-info") for part in p.parts)]


def python(code, env=None):
    """The code run in a Python of its own, in the repository's root."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


def test_importing_loads_nothing_heavy():
    code = (
        "import fastlab, fastlab.spec, fastlab.latency.estimates, sys;"
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'transformers')"
        " if m in sys.modules])"
    )
    run = python(code)
    assert run.stdout.strip() == "[]", run.stderr


WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocked())
from importlib import import_module
from pkgutil import iter_modules

import fastlab.figures, fastlab.notebook, fastlab.reading, fastlab.rows

for package in (fastlab.figures, fastlab.notebook):
    for module in iter_modules(package.__path__):
        import_module(package.__name__ + "." + module.name)
        print(module.name)
"""


def test_rows_figures_and_notebook_import_without_torch():
    run = python(WITHOUT_TORCH)
    assert run.returncode == 0, run.stderr
    assert {"grammar", "explorer", "sweep", "run"} <= {*run.stdout.split()}


def test_importing_takes_less_than_a_third_of_a_second():
    """Seconds of this process's CPU, beyond Python's own start."""
    code = (
        "import time; began = time.process_time(); import fastlab;"
        "print(time.process_time() - began)"
    )
    assert float(python(code).stdout) < 0.3


SPINS = """
import os, sys
sys.modules.update(dict.fromkeys({loaded}))  # an entry that stands for it
import fastlab
for name in {loaded}:
    del sys.modules[name]
from fastlab.machine import environment
print(repr(environment("cpu")["gomp_spin"]), os.environ.get("OPENBLAS_NUM_THREADS"))
"""
CONDA = Path(sys.prefix, "conda-meta").exists()  # its torch may need the same library


@pytest.mark.parametrize(
    ("given", "loaded", "spins"),
    [
        ({}, [], f"'20000' {None if CONDA else 1}"),
        ({"GOMP_SPINCOUNT": "7", "OPENBLAS_NUM_THREADS": "3"}, [], "'7' 3"),
        ({}, ["torch", "numpy"], "'' None"),
    ],
)
def test_waiting_threads_spin_little_if_nobody_said_and_torch_is_not_loaded(
    given, loaded, spins
):
    ours = ("GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS")
    others = {k: v for k, v in os.environ.items() if k not in ours}
    run = python(SPINS.format(loaded=loaded), others | given)
    assert run.stdout.strip() == spins, run.stderr


def test_every_old_name_that_has_a_new_one_leads_to_it():
    """The table of names: what was public, and where it is now, if it still is."""
    with (ROOT / "tests" / "pins" / "names.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["old"] for row in rows}) == len(rows) > 200
    for row in rows:
        assert row["new"] or row["note"], row
        if row["new"]:
            assert resolve_name(row["new"]) is not None


def test_everything_public_is_there():
    for name in fl.__all__:
        assert getattr(fl, name) is not None
        assert name in dir(fl)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        _ = fl.sweeep


def test_names_do_not_collide_with_modules():
    """A module `sweep` beside a function `sweep` breaks on the second call."""
    modules = {p.stem for p in (ROOT / "fastlab").iterdir() if p.stem[0] != "_"}
    functions = set(fl.__all__) - set(fl._MODULES)
    assert not modules & functions


def test_no_text_installs_a_package_of_our_name():
    """The short name belongs to something unrelated on the public index."""
    words = "pip install " + "fastlab"
    assert [p.name for p in tracked() if words in p.read_text("utf-8")] == []


# Over the 300 lines that a module may have, and by how much they may be: only less.
LONG: dict[str, int] = {}


def test_modules_stay_small():
    """A module that has become short loses its exception."""
    sizes = {
        path.relative_to(ROOT / "fastlab").as_posix(): len(
            path.read_text("utf-8").splitlines()
        )
        for path in ROOT.glob("fastlab/**/*.py")
    }
    assert {name: n for name, n in sizes.items() if n > LONG.get(name, 300)} == {}
    assert {name for name in LONG if sizes[name] <= 300} == set()
