"""A model in a folder to pass on: `save`, and what it is, from where and how good."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastlab
from fastlab.shrink.saved import save
from fastlab.spec.hub import sha256_of
from fastlab.spec.manifest import MANIFEST
from fastlab.spec.point import Point


def check_free(folder: str | Path) -> Path:
    """The folder's path; ValueError where there is something in its place."""
    path = Path(folder)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{folder} is not empty: name a folder that is, or none yet")
    return path


def pack(
    model: Any,
    point: Point,
    folder: str | Path,
    tokenizer: Any = None,
    rows: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Write a point's model to a new folder that `load` reads; its manifest.

    Beside what `save` says, that holds fastlab's version, the point, the sha256 of each
    file, and the rows: what was measured of this model, and where. The folder is there
    whole or not at all; ValueError where it is not empty.
    """
    path = check_free(folder)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        manifest = save(model, fresh, tokenizer)
        (fresh / MANIFEST).unlink()
        files = sorted(file for file in fresh.rglob("*") if file.is_file())
        digests = {
            file.relative_to(fresh).as_posix(): sha256_of(file) for file in files
        }
        about = {"fastlab": fastlab.__version__, "point": point.to_dict()}
        manifest |= {**about, "files": digests, "rows": list(rows)}
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        if path.exists():
            path.rmdir()
        os.replace(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return manifest
