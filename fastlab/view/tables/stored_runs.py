"""Stored runs of learning: models, students, and what each reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlab.checkpoints import load
from fastlab.clock.evaluator import Evaluator, built
from fastlab.shrink.trained import CHECKPOINTS
from fastlab.spec.pruning import Pruning, pruned_shape
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import ModelShape

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.shrink.trained import Trained

KINDS = ("dense", "from scratch", "distilled")


def kept(folder: Path = CHECKPOINTS) -> pd.DataFrame:
    """Every run.json under a folder: a model, how it came about, what it reaches.

    Columns: name, kind, shape, layers, hidden, parameters, steps, bits_per_byte, low,
    high, sha (of the text that judged), pruning (fields), curve (rows), folder. The
    dense model is that of most parameters among those trained on the text alone.
    """
    import pandas as pd

    files = sorted(folder.glob("**/run.json"))
    read = [(f, json.loads(f.read_text(encoding="utf-8"))) for f in files]
    own = [_trained_line(file, run) for file, run in read if "run" in run]
    own.sort(key=lambda one: (-one["parameters"], -one["steps"]))
    shape = ModelShape(**own[0].pop("fields")) if own else None
    for n, one in enumerate(own):
        one.pop("fields", None)
        one["kind"] = KINDS[min(n, 1)]
    taught = [_taught_line(f, run, shape) for f, run in read if "teacher" in run]
    return pd.DataFrame([*own, *taught], columns=list(_KEPT))


_KEPT = (
    *("name", "kind", "shape", "layers", "hidden", "parameters", "steps"),
    *("bits_per_byte", "low", "high", "sha", "pruning", "curve", "folder"),
)


def _trained_line(file: Path, run: dict[str, Any]) -> dict[str, Any]:
    fields = run["run"]["shape"]
    sha, text = run["text"]["held_out_sha256"], run["text"]
    nats = 0.6931471805599453 * text["train_bytes"] / text["train_tokens"]
    curve = [row | {"bits_per_byte": row["loss"] / nats} for row in _curve(file, run)]
    line = {"fields": fields, "steps": run["steps"], "sha": sha, "curve": curve}
    return line | _reached(file, run) | _sized(ModelShape(**fields))


def _taught_line(
    file: Path, run: dict[str, Any], shape: ModelShape | None
) -> dict[str, Any]:
    cut = run["recipe"].get("pruning", {})
    line = {"kind": KINDS[2], "steps": run["recipe"].get("distill_steps", 0)}
    line |= {"sha": run["held_out_sha256"], "pruning": cut, "curve": _curve(file, run)}
    line |= _sized(pruned_shape(shape, Pruning(**cut))) if shape else {}
    return line | _reached(file, run)


def _curve(file: Path, run: dict[str, Any]) -> list[dict[str, float]]:
    """The whole curve where it is kept beside or above, else run.json's few rows."""
    for folder in (file.parent, file.parent.parent):
        whole = folder / "curve.jsonl"
        if whole.exists() and (folder == file.parent or file.parent.name == "final"):
            return [json.loads(row) for row in whole.read_text().splitlines()]
    return list(run["curve"])


def _reached(file: Path, run: dict[str, Any]) -> dict[str, Any]:
    judged = {name: run["held_out"][name] for name in ("bits_per_byte", "low", "high")}
    judged |= {"name": _name(file), "folder": str(file.parent)}
    return judged | {"parameters": run["parameters"]}


def _name(file: Path) -> str:
    folder = file.parent
    return folder.parent.name if folder.name == "final" else folder.name


def _sized(shape: ModelShape) -> dict[str, Any]:
    words = f"{shape.layers} x {shape.hidden}, ffn {shape.ffn}"
    return {"shape": words, "layers": shape.layers, "hidden": shape.hidden}


def before_and_after(
    runs: pd.DataFrame, trained: Trained, judge: Evaluator
) -> pd.DataFrame:
    """Each kept student before and after distilling, as ratios to the dense model.

    before: the same cut, made now; after: the student, where its weights are kept; both
    judged on the blocks at hand. whole: from run.json, of the whole held-out text.
    Models from scratch have no before.
    """
    import math

    small = runs[runs["kind"] != KINDS[0]].drop(columns=["curve"]).copy()
    dense = runs[runs["kind"] == KINDS[0]]["bits_per_byte"]
    small["whole"] = small["bits_per_byte"] / (
        float(dense.iloc[0]) if len(dense) else math.nan
    )
    small["before"] = [
        _before(cut, trained, judge) if isinstance(cut, dict) else math.nan
        for cut in small["pruning"]
    ]
    small["after"] = [_after(folder, judge) for folder in small["folder"]]
    return small.drop(columns=["folder"]).reset_index(drop=True)


def _before(cut: dict[str, Any], trained: Trained, judge: Evaluator) -> float:
    model = built(trained, Recipe(pruning=Pruning(**cut)))
    return judge.bits_per_byte(model) / judge.dense


def _after(folder: str, judge: Evaluator) -> float:
    """A kept model on the blocks at hand; NaN where its weights are not kept."""
    if not (Path(folder) / "model.safetensors").exists():
        return float("nan")
    return judge.bits_per_byte(load(folder)[0]) / judge.dense
