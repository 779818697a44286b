"""Live students: what a pruned model learns again, in how many steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlab.checkpoints import without_bars
from fastlab.clock.evaluator import Evaluator, built
from fastlab.notebook.progress import line
from fastlab.spec.checks import check_count, digest
from fastlab.spec.point import Point, Workload
from fastlab.spec.pruning import Pruning, pruned_shape
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import ModelShape

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from fastlab.learning.loop import Loss, Training
    from fastlab.shrink.trained import Trained

TEACHER = "pruned, learns from the teacher"
TEXT = "pruned, learns from the text"
SCRATCH = "from scratch, learns from the text"
STUDENTS = (TEACHER, TEXT, SCRATCH)
KL = 0.9  # of the loss; the rest is cross-entropy
LOOKS = 4  # at the held-out blocks, while one student learns
PASSAGES, LENGTH = 128, 256  # of the training text: what the live students read
SAVE_S = 3.0  # seconds of work that an interruption can lose


@dataclass(frozen=True)
class Course:
    """What is cut, and how long the live students learn, at which temperature."""

    pruning: Pruning
    steps: int = 20
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_count("steps", self.steps)

    def how(self, shape: ModelShape) -> Training:
        """Short blocks and small batches: seconds on two threads.

        Steps smaller than when training begins: weights that are nearly right move
        little.
        """
        from fastlab.learning.loop import Training

        block = min(128, shape.max_positions)
        return Training(8, block, lr=1e-3, matrix_lr=5e-3, warmup=3, decay=0.5)


def course(layers: float, steps: int, temperature: float) -> Course:
    """A course for a model without so large a share of its layers.

    The layers that change the residual stream least go (block influence). ValueError
    names the field that is out of range.
    """
    from fastlab.learning.distilling import DistillConfig

    DistillConfig(temperature, KL)
    cut = Pruning(layers=layers, layer_choice="influence")
    return Course(cut, steps, temperature)


def recovered(
    trained: Trained, dense: nn.Module, judge: Evaluator, plan: Course, folder: Path
) -> pd.DataFrame:
    """Bits per byte against steps of three live students; see STUDENTS.

    Columns: student, step, bits_per_byte, of_dense (its ratio to the dense model's),
    parameters, seconds. Each student's work is kept under `folder`: the same call after
    an interruption goes on from its last checkpoint, and is instant once done.
    """
    import pandas as pd

    ids = trained.seen(LENGTH, PASSAGES).flatten()
    place = folder / _named(trained, plan)
    parts = []
    with line().steps(plan.steps * len(STUDENTS), "three students learn") as done:
        for student in STUDENTS:
            words = _words(student, done)
            model = _student(student, trained, plan)
            loss = _loss(student, model, dense, plan)
            at = place / digest(student)[:8]
            parts.append(_learned(model, loss, ids, judge, plan, at, words))
            parts[-1].insert(0, "student", student)
    table = pd.concat(parts, ignore_index=True)
    table["of_dense"] = table["bits_per_byte"] / judge.dense
    return table


def _named(trained: Trained, plan: Course) -> str:
    what = {"weights": trained.weights, "text": trained.corpus.train_sha256}
    return digest(what | {"course": asdict(plan)})[:16]


def _words(student: str, done: Any) -> Any:
    return lambda row: done(f"{student}, loss {row['loss']:.2f}")


def _student(student: str, trained: Trained, plan: Course) -> nn.Module:
    if student != SCRATCH:
        return built(trained, Recipe(pruning=plan.pruning))
    from fastlab.models import build
    from fastlab.spec.hub import read_shape

    shape = pruned_shape(read_shape(str(trained.folder)), plan.pruning)
    with without_bars():
        return build(Point(shape, Workload(prompt_len=1)))


def _loss(student: str, model: nn.Module, dense: nn.Module, plan: Course) -> Loss:
    from fastlab.learning.distilling import DistillConfig, distill_loss
    from fastlab.learning.loop import next_token_loss

    if student != TEACHER:
        return next_token_loss(model)
    return distill_loss(model, dense, DistillConfig(plan.temperature, KL))


def _learned(
    model: nn.Module,
    loss: Loss,
    ids: Tensor,
    judge: Evaluator,
    plan: Course,
    folder: Path,
    on_row: Any,
) -> pd.DataFrame:
    """The held-out curve of one student, from before its first step on."""
    import pandas as pd

    from fastlab.learning.loop import Trainer
    from fastlab.learning.session import Session
    from fastlab.learning.tokens import Blocks
    from fastlab.spec.hub import read_shape

    how = plan.how(read_shape(model.config))
    before, count = (
        judge.bits_per_byte(model),
        sum(p.numel() for p in model.parameters()),
    )
    blocks = Blocks(ids, how.block, how.batch, how.seed)
    session = Session(Trainer(model, blocks, loss, how), folder, SAVE_S)
    session.evaluate = lambda: judge.bits_per_byte(model)
    session.evaluate_every = max(1, plan.steps // LOOKS)
    session.plan(plan.steps)
    session.run(on_row)
    session.trainer.model.eval().requires_grad_(False)
    seen = [row for row in session.curve.rows if "held_out" in row]
    steps = [0, *(int(row["step"]) for row in seen)]
    bits = [before, *(row["held_out"] for row in seen)]
    spent = [0.0, *(row["seconds"] for row in seen)]
    lines = {"step": steps, "bits_per_byte": bits, "seconds": spent}
    return pd.DataFrame(lines | {"parameters": count})


def won_back(
    table: pd.DataFrame, dense: float, guess: float | None = None
) -> dict[str, float]:
    """Which share of what the cut cost each pruned student won back: 1 = all of it.

    A guess stands first, where there is one.
    """
    shares = {} if guess is None else {"your guess": guess}
    for student, own in table.groupby("student", sort=False):
        first, last = own["bits_per_byte"].iloc[[0, -1]]
        if student != SCRATCH and first > dense:
            shares[str(student)] = round((first - last) / (first - dense), 2)
    return shares


def softened(
    dense: nn.Module, tokenizer: Any, text: str, temperatures: Sequence[float]
) -> pd.DataFrame:
    """The teacher's likeliest next tokens after `text`, at each temperature.

    Columns: token, then one share for each temperature; the likeliest eight.
    """
    import pandas as pd
    import torch

    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = dense(ids, use_cache=False).logits[0, -1].float()
    top = logits.topk(8).indices
    names = [repr(tokenizer.decode([int(one)]))[1:-1] for one in top]
    shares = {
        f"T = {t:g}": (logits / t).softmax(-1)[top].tolist() for t in temperatures
    }
    return pd.DataFrame({"token": names} | shares)
