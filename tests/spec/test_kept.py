"""What is kept of a model between runs is of this code, and whole."""

from pathlib import Path

import pytest

from fastlab.spec import kept


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_it_is_found_again_under_its_own_key() -> None:
    kept.keep(["shape", 1], {"layers": 2})
    assert kept.recall(["shape", 1]) == {"layers": 2}
    assert kept.recall(["shape", 2]) is None


def test_what_older_code_found_is_found_out_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept.keep("key", 1)
    monkeypatch.setattr(kept, "_finders", lambda: "another")
    assert kept.recall("key") is None


def test_half_a_file_is_none(folder: Path) -> None:
    kept.keep("key", [1, 2])
    (file,) = folder.rglob("*.json")
    file.write_text(file.read_text()[:-1])
    assert kept.recall("key") is None
