"""A trained model in the reader's hands: found, pruned, compared, saved, reloaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastlab.checkpoints import generate_text, load, without_bars
from fastlab.clock.measure import Bench
from fastlab.clock.timing import Settings
from fastlab.cost.memory import parameters
from fastlab.notebook.generation import train_tiny_lm
from fastlab.notebook.progress import status
from fastlab.record import Quality, Record
from fastlab.shrink.trained import CHECKPOINTS, Trained
from fastlab.shrink.trained import checkpoint_folder as folder_of
from fastlab.spec.hub import read_shape
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import ModelShape
from fastlab.view.tables.pruning import built_words, kind_of, savings_of

if TYPE_CHECKING:
    import pandas as pd

SMALL = "small"  # the name of a model that is taught here and now
JUDGED = 40_000  # characters of held-out text that judge a model while one waits
HEALED = (
    *("kind", "share", "choice", "distill_steps", "left", "parameters"),
    *("bits_per_byte", "low", "high", "before"),
)
PROMPT = 256  # tokens of the prefill that is timed
SHOWN = 160  # characters of what a model wrote


def trained_model(checkpoint: str, learn_s: float = 8.0) -> Trained:
    """A model of data/checkpoints by name, of a folder, or of the hub.

    "small": half a million parameters, taught for so many seconds on Python's sources,
    and kept under results/. OSError where there is no such model.
    """
    if checkpoint == SMALL:
        return Trained(str(_taught(learn_s)))
    return Trained(folder_of(checkpoint))


def _taught(seconds: float) -> Path:
    from fastlab.learning.checkpoint import export_model
    from fastlab.notebook.run import results_root

    folder = results_root() / "small-model" / f"{seconds:g}s"
    if not (folder / "tokenizer.json").exists():
        taught = train_tiny_lm(seconds)
        with without_bars():
            export_model(*taught, folder)
    return folder


def text_words(trained: Trained) -> str:
    """Whether this Python's held-out text is the one that stored rows were judged on.

    On another text the dense model is judged anew, on this one.
    """
    from fastlab.learning.likelihood import text_loss

    path = trained.folder / "run.json"
    if not path.exists():
        return "held-out text: of this Python; nothing is stored to compare it with"
    judged = json.loads(path.read_text(encoding="utf-8"))["held_out"]
    if not trained.corpus.differs(judged["text_sha256"]):
        return "held-out text: the same, to the byte, as that of the stored rows"
    model, tokenizer = load(trained.folder)
    found = text_loss(model, tokenizer, trained.corpus.held_out[:JUDGED])
    return (
        "held-out text: another than that of the stored rows, since this is another "
        f"Python; on it the dense model needs {found.bits_per_byte:.3f} bits per byte"
    )


def healed(
    records: Iterable[Record], trained: Trained, folder: Path = CHECKPOINTS
) -> pd.DataFrame:
    """Distilled models of these weights: rows that were measured, students kept.

    Columns: kind, share, choice, distill_steps, left, parameters, bits_per_byte, low,
    high, before (bits per byte of the same cut, where that was judged on the same
    text); each model once.
    """
    import pandas as pd

    own = [r for r in records if r.point.weights == trained.weights]
    taught = [
        r for r in own if r.point.recipe.distill_steps and kind_of(r.point.recipe)
    ]
    rows = savings_of(taught, known=own)
    rows["before"] = _untaught(taught, own)
    kept = rows[rows["bits_per_byte"].notna()][list(HEALED)]
    lines: list[Any] = kept.to_dict("records")
    read = [json.loads(path.read_text()) for path in sorted(folder.rglob("run.json"))]
    students = [run for run in read if run.get("teacher") == trained.weights]
    lines += [_student(run, parameters(read_shape(trained.folder))) for run in students]
    once = ["kind", "share", "choice", "distill_steps"]
    return pd.DataFrame(lines, columns=list(HEALED)).drop_duplicates(once)


def _untaught(taught: Iterable[Record], known: Iterable[Record]) -> list[float]:
    """Bits per byte of each record's cut before it learned again; NaN if not judged."""
    judged = {r.point: r.quality for r in known if r.quality}
    return [_bits(judged.get(_bare(record.point))) for record in taught]


def _bare(point: Point) -> Point:
    return replace(point, recipe=replace(point.recipe, distill_steps=0))


def _bits(quality: Quality | None) -> float:
    bits = quality.bits_per_byte if quality else None
    return float("nan") if bits is None else bits


def _student(run: Mapping[str, Any], dense: int) -> dict[str, Any]:
    recipe, judged = Recipe(**run["recipe"]), run["held_out"]
    cut, kind = recipe.pruning, kind_of(recipe)
    line = {"kind": kind, "share": getattr(cut, kind, 0.0)}
    line |= {"choice": cut.layer_choice if kind == "layers" else cut.importance}
    line |= {"distill_steps": recipe.distill_steps, "parameters": run["parameters"]}
    line |= {"left": run["parameters"] / dense}
    return line | {name: judged[name] for name in ("bits_per_byte", "low", "high")}


def side_by_side(
    models: Mapping[str, Any],
    trained: Trained,
    prompt: str,
    new_tokens: int = 40,
    budget_s: float = 0.3,
) -> pd.DataFrame:
    """Models at hand: parameters, estimated and measured ms, bits per byte, a text.

    ms are those of a prefill of 256 tokens, fp32, on this machine, flags what to hold
    against them; bits per byte of the beginning of the held-out text, on which
    intervals are wide.
    """
    import pandas as pd

    with status("measuring what this device can do"):
        bench = Bench.for_device("cpu", Settings.for_device("cpu", budget_s=budget_s))
    bench.judge = False
    lines = []
    for name, model in models.items():
        text = _said(model, trained, prompt, new_tokens)
        lines.append({"model": name} | _timed(bench, model) | text)
    return pd.DataFrame(lines)


def _timed(bench: Bench, model: Any) -> dict[str, Any]:
    shape = ModelShape.from_config(model.config)
    length = min(PROMPT, shape.max_positions)
    point = Point(shape, Workload(prompt_len=length))
    bench.use_model(point, model)
    record = bench.measure(point)
    made, taken = record.estimate, record.measured
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "estimated_ms": 1e3 * made.seconds if made else float("nan"),
        "measured_ms": 1e3 * taken.seconds if taken else float("nan"),
        "n": taken.n if taken else 0,
        "flags": ", ".join(taken.flags) if taken else "",
    }


def _said(model: Any, trained: Trained, prompt: str, new_tokens: int) -> dict[str, Any]:
    from fastlab.learning.likelihood import text_loss

    block = min(512, model.config.max_position_embeddings)
    part = trained.corpus.held_out[:JUDGED]
    judged = text_loss(model, trained.tokenizer, part, block)
    text = generate_text(model, trained.tokenizer, prompt, new_tokens)
    return {"bits_per_byte": judged.bits_per_byte, "it writes": text[:SHOWN]}


def reloaded(model: Any, trained: Trained, folder: Path) -> pd.DataFrame:
    """Save a model and its tokenizer as transformers does, load it, compare all bits.

    One line: what the config says, MB on disk, tensors, whether all are equal, and the
    largest difference of a logit on a row of the training text.
    """
    import pandas as pd

    with without_bars():
        model.save_pretrained(folder)
        trained.tokenizer.save_pretrained(folder)
    again, _ = load(folder)
    ids = trained.seen(64, rows=1)
    with torch.no_grad():
        logits = [one(ids, use_cache=False).logits for one in (model, again)]
    before, after = model.state_dict(), again.state_dict()
    same = before.keys() == after.keys()
    equal = same and all(torch.equal(before[name], after[name]) for name in before)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    line: dict[str, Any] = {
        "config says": built_words(Point(ModelShape.from_config(again.config)))
    }
    line |= {"MB on disk": size / 1e6, "tensors": len(before)}
    line |= {"equal, bit for bit": "yes" if equal else "no"}
    apart = float((logits[0] - logits[1]).abs().max())
    line |= {"largest difference of logits": f"{apart:g}"}
    return pd.DataFrame([line])
