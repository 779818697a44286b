"""What was found out about a model once and is kept between runs. No torch."""

from __future__ import annotations

import json
import os
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlab.spec.checks import digest
from fastlab.spec.hub import in_one_line

if TYPE_CHECKING:
    from fastlab.spec.shape import ModelShape


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/fastlab, or ~/.cache/fastlab."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "fastlab" if base else Path.home() / ".cache" / "fastlab"


@cache
def _finders() -> str:
    """Names the code that finds things out: what older code found may be wrong."""
    here = Path(__file__).with_name("configs.py")
    files = [here, *sorted((here.parents[1] / "tracing").glob("*.py"))]
    return digest([file.read_text(encoding="utf-8") for file in files])


@cache
def _version() -> str:
    return version("transformers")  # reading its metadata takes milliseconds


def _files(key: Any) -> tuple[Path, list[Path]]:
    """Where an answer of this version of transformers is kept, and those of any."""
    folder, name = cache_folder() / "models", digest([_finders(), key])[:32]
    try:
        own = folder / f"{name}-{_version()}.json"
    except PackageNotFoundError:
        return folder / name, sorted(folder.glob(f"{name}-*.json"), reverse=True)
    return own, [own]


def recall(key: Any) -> Any:
    """What was kept under a key (plain JSON); None where nothing was, or not whole.

    Without transformers, what any version of it has found.
    """
    for file in _files(key)[1]:
        try:
            return json.loads(file.read_text())
        except (OSError, ValueError):
            continue
    return None


def keep(key: Any, value: Any) -> None:
    """Keep plain JSON under a key; where that cannot be written, it is not kept."""
    file = _files(key)[0]
    part = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(value, separators=(",", ":")))
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)


@lru_cache(maxsize=1024)
def program_of(shape: ModelShape) -> dict[str, Any]:
    """The program of a shape that has a config: kept from before, or traced now.

    Raises ValueError where transformers cannot build or run it.
    """
    key = ["program 2", shape.to_dict()]
    program: dict[str, Any] | None = recall(key)
    if program is None:
        from fastlab.tracing.configs import config_of, model_class_of
        from fastlab.tracing.trace import trace

        with in_one_line(shape.family):
            program = trace(config_of(shape), model_class_of(shape), shape.kind)
        keep(key, program)
    return program


def notes_of(shape: ModelShape) -> list[str]:
    """What a reader of estimates of a shape should know; nothing of closed forms."""
    if not shape.config:
        return []
    program, notes = program_of(shape), []
    if packed := program.get("published"):
        notes.append(f"weights as they are stored, {packed['label']}; kernels are not")
    if any(op[0] == "experts" for op in _operations(program)):
        notes.append("experts: those of T tokens that choose at random are read")
    if program["approximate"]:
        notes.append(f"approximate: {program['approximate']}")
    return notes


def _operations(program: dict[str, Any]) -> list[Any]:
    phases = [phase for calls in program["calls"].values() for phase in calls.values()]
    return [op for phase in phases for _, ops in phase["parts"] for op in ops]
