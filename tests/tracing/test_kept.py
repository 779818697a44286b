"""A model that was seen before needs neither torch nor transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastlab.spec import ModelShape
from fastlab.spec.kept import program_of
from tests.runtime.families import small_config

ASK = """
import sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuses())
from fastlab.cost.memory import kv_cache_bytes
from fastlab.cost.operations import total
from fastlab.spec import ModelShape, Point, Recipe, Workload

asked = Point(ModelShape.from_config(sys.argv[1]), Workload("decode", 2, 19), Recipe())
print(total(asked, "flops"), kv_cache_bytes(asked))
"""


def test_a_folder_seen_before_is_counted_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small_config("granite").save_pretrained(tmp_path / "model")
    asking = [sys.executable, "-c", ASK, str(tmp_path / "model")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    unseen = subprocess.run(asking, env=env, capture_output=True, text=True)
    assert unseen.returncode and "ModuleNotFoundError" in unseen.stderr
    shape = ModelShape.from_config(tmp_path / "model")
    program_of.__wrapped__(shape)
    seen = subprocess.run(asking, env=env, capture_output=True, text=True)
    assert seen.returncode == 0, seen.stderr
    flops, cache = map(int, seen.stdout.split())
    # layers x sequences x positions x heads x (keys, values) x width x bytes
    assert flops > 0 and cache == 4 * 2 * 20 * 2 * 2 * 16 * 4


@pytest.mark.parametrize("broken", ["", "{", "null"])
def test_a_broken_file_is_made_anew(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shape = ModelShape.from_config(small_config("gptj"))
    program = program_of.__wrapped__(shape)
    (file,) = tmp_path.glob("fastlab/models/*.json")
    whole = file.read_text()
    file.write_text(broken)
    assert program_of.__wrapped__(shape) == program
    assert file.read_text() == whole
