"""A pruned model learns from the dense one again, and is kept as a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fastlab import checkpoints, machine
from fastlab.learning.checkpoint import Row, export_model, summary_of, write_json
from fastlab.learning.distilling import DistillConfig, distill
from fastlab.learning.likelihood import text_loss
from fastlab.learning.loop import Training
from fastlab.learning.tokens import token_ids
from fastlab.shrink.pruning.slicing import prune
from fastlab.shrink.trained import Trained
from fastlab.spec.checks import digest
from fastlab.spec.recipe import Recipe

CONFIG = DistillConfig(temperature=2.0, kl=0.8)
HOW = Training(
    batch=8,
    lr=1e-3,
    warmup=10,
    precision="autocast-bf16",
    compiled=True,
    decay=1.0,
)
KEPT = "final"  # the folder of a student that is done, beside what its run kept


def healed(
    recipe: Recipe,
    trained: Trained,
    ids: Tensor | None = None,
    device: str = "cpu",
) -> Path:
    """The folder of the recipe's pruned model after its distill_steps.

    Teacher and student are the dense weights in fp32; the student is cut, learns from
    the teacher on the training text, and is written in bf16 with run.json. The work is
    kept in trained.students: a run that was stopped goes on, one that is done is taken.
    ids: as `prune` takes them. Raises ValueError where there is no such folder, or a
    text shorter than one block.
    """
    folder = student_folder(recipe, trained)
    if (folder / KEPT / "run.json").exists():
        return folder / KEPT
    teacher, tokenizer = checkpoints.load(trained.folder, device, "fp32")
    student, _ = checkpoints.load(trained.folder, device, "fp32")
    prune(student, recipe.pruning, ids if recipe.pruning.needs_text else None)
    text, how = token_ids(tokenizer, trained.corpus.train), how_of(student)
    rows = distill(
        *(student, teacher, text, recipe.distill_steps),
        config=CONFIG,
        how=how,
        folder=folder,
        on_row=trained.on_row,
    )
    export_model(student, tokenizer, folder / KEPT)
    _write_run(folder / KEPT, recipe, trained, how, rows, device)
    return folder / KEPT


def student_folder(recipe: Recipe, trained: Trained) -> Path:
    """Where a student's run is kept: named by all that it is made of."""
    if not trained.students:
        raise ValueError(
            f"distill_steps={recipe.distill_steps} needs students=: the folder where "
            "distilled models are kept"
        )
    made: dict[str, Any] = {"weights": trained.weights}
    made |= {"text": trained.corpus.train_sha256}
    made |= {"pruning": recipe.pruning.to_dict(), "steps": recipe.distill_steps}
    made |= {"lesson": asdict(CONFIG), "how": asdict(HOW)}
    return Path(trained.students) / digest(made)[:16]


def how_of(student: object) -> Training:
    """How a student learns: in blocks no longer than what it has positions for."""
    most: int = student.config.max_position_embeddings  # type: ignore[attr-defined]
    return replace(HOW, block=min(HOW.block, most))


def _write_run(
    folder: Path,
    recipe: Recipe,
    trained: Trained,
    how: Training,
    rows: list[Row],
    device: str,
) -> None:
    model, tokenizer = checkpoints.load(folder, device)
    corpus, environment = trained.corpus, machine.environment(device)
    judged = text_loss(model, tokenizer, corpus.held_out, how.block)
    write_json(
        folder / "run.json",
        {
            **{name: environment[name] for name in ("command", "versions", "device")},
            "teacher": trained.weights,
            "recipe": recipe.to_dict(),
            "lesson": asdict(CONFIG),
            "how": asdict(how),
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": round(rows[-1]["seconds"], 1),
            "held_out_sha256": corpus.held_out_sha256,
            "held_out": asdict(judged),
            "curve": summary_of(rows),
        },
    )
