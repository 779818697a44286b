"""What a recipe asks of the weights: pruned, distilled, zeroed, quantized or shared."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastlab import calls, checkpoints, models
from fastlab.learning.distilling import DistillConfig, distill
from fastlab.learning.loop import Training
from fastlab.learning.tokens import token_ids
from fastlab.learning.training import export_run
from fastlab.models import stack_of
from fastlab.shrink.pruning.slicing import prune
from fastlab.shrink.quantize import quantize, why_dense
from fastlab.shrink.saved import load_stored
from fastlab.shrink.share import share, share_layers
from fastlab.shrink.sparsify import sparsify
from fastlab.shrink.trained import Trained
from fastlab.spec.checks import check_choice, digest
from fastlab.spec.formats import PRECISIONS, QUANTIZED
from fastlab.spec.manifest import contradiction, held_recipe, is_stored
from fastlab.spec.point import Point, Workload
from fastlab.spec.pruning import Pruning
from fastlab.spec.recipe import PLAIN, SCOPES, Recipe

CONFIG = DistillConfig(temperature=2.0, kl=0.8)
HOW = Training(
    batch=8, lr=1e-3, warmup=10, decay=1.0, precision="autocast-bf16", compiled=True
)
KEPT = "final"  # the folder of a student that is done, beside what its run kept
SEEN_LENGTH = 256  # of the rows on which importances are measured


def build(
    point: Point,
    device: str = "cpu",
    trained: Trained | None = None,
    seconds: dict[str, float] | None = None,
) -> nn.Module:
    """The point's model on the device, made smaller as its recipe says.

    The same seed gives the same dense weights in every precision, up to their rounding.
    Importances that are measured see the text of trained weights, random ids with
    random ones. Distilled students are made here, or taken from trained.students.
    Raises ValueError for trained weights that are not those of the point, or that no
    source is given for. seconds: takes the host's time for load, distill, shrink and
    quantize.
    """
    recipe = point.recipe
    if point.seed is not None:
        later = recipe.precision in QUANTIZED and not (recipe.prunes or recipe.sparsity)
        with stage(seconds, "load"):
            dense = models.build(point, device, later)
        return smaller(dense, recipe, _ids(point, device), seconds)
    if trained is None:
        raise ValueError(f"weights={point.weights!r}: only random ones can be built")
    trained.check(point)
    held = held_recipe(trained.folder)
    attention = models.implementation_of(recipe.attention)
    if held and is_stored(held):
        if recipe.weights_key != held.weights_key:
            raise contradiction(trained.source, held, "precision", recipe.precision)
        with stage(seconds, "load"):
            return load_stored(trained.folder, device, attention)
    ids, source = _ids(point, device, trained), trained.folder
    if recipe.distill_steps:  # a student is pruned already
        with stage(seconds, "distill"):
            source = healed(recipe, trained, ids, device)
        recipe = replace(recipe, pruning=Pruning(), distill_steps=0)
    with stage(seconds, "load"):
        model, _ = checkpoints.load(source, device, recipe.precision, attention)
    return smaller(model, recipe, ids, seconds)


@contextmanager
def stage(seconds: dict[str, float] | None, name: str) -> Iterator[None]:
    """Note the seconds of what is done within, where somebody asks."""
    start = time.perf_counter()
    yield
    if seconds is not None:
        seconds[name] = time.perf_counter() - start


def smaller(
    model: nn.Module,
    recipe: Recipe,
    ids: Tensor | None = None,
    seconds: dict[str, float] | None = None,
) -> nn.Module:
    """A dense model pruned, then zeroed, then quantized or shared; it is consumed.

    ids: (rows, length) of a text, where the recipe measures what to keep. Distillation
    comes between the first two and is not done here. seconds: as `build` takes them.
    """
    with stage(seconds, "shrink"):
        if recipe.prunes:
            prune(model, recipe.pruning, ids)
        if recipe.sparsity is not None:
            sparsify(model, recipe.sparsity, ids)
        if recipe.sharing is not None:
            share(model, recipe.sharing)
    with stage(seconds, "quantize"):
        if recipe.precision in QUANTIZED:
            quantize(model, recipe)
        if recipe.distinct_layers:
            share_layers(model, recipe.distinct_layers)
    return model


def _ids(point: Point, device: str, trained: Trained | None = None) -> Tensor | None:
    """What importances are measured on; None for recipes that measure nothing."""
    sparsity = point.recipe.sparsity
    wanda = sparsity is not None and sparsity.method == "wanda"
    if not (wanda or point.recipe.pruning.needs_text):
        return None
    length = min(SEEN_LENGTH, point.shape.max_positions)
    if trained is not None:
        return trained.seen(length).to(device)
    work = Workload(batch=4, prompt_len=length)
    return calls.prompt_ids(replace(point, workload=work, recipe=PLAIN), device)


def healed(
    recipe: Recipe, trained: Trained, ids: Tensor | None = None, device: str = "cpu"
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
    if recipe.prunes:
        prune(student, recipe.pruning, ids)
    if recipe.distinct_layers:
        share_layers(student, recipe.distinct_layers)
    text, steps = token_ids(tokenizer, trained.corpus.train), recipe.distill_steps
    most: Any = student.config.max_position_embeddings  # type: ignore[union-attr]
    how = replace(HOW, block=min(HOW.block, most))
    keep: dict[str, Any] = {"folder": folder, "on_row": trained.on_row}
    rows = distill(student, teacher, text, steps, config=CONFIG, how=how, **keep)
    about: dict[str, Any] = {
        **{"teacher": trained.weights, "recipe": recipe.to_dict()},
        **{"lesson": asdict(CONFIG), "how": asdict(how)},
        "held_out_sha256": trained.corpus.held_out_sha256,
    }
    stack = stack_of(student)
    for place, layer in enumerate(stack if recipe.distinct_layers else ()):
        stack[place] = deepcopy(layer)  # its file is as any other; sharing comes again
    judged = trained.corpus.held_out, how.block
    export_run(folder / KEPT, student, tokenizer, rows, *judged, **about)
    return folder / KEPT


def student_folder(recipe: Recipe, trained: Trained) -> Path:
    """Where a student's run is kept: named by all that it is made of."""
    if not trained.students:
        raise ValueError(
            f"distill_steps={recipe.distill_steps} needs students=: the folder where "
            "distilled models are kept"
        )
    about = {
        "weights": trained.weights,
        "text": trained.corpus.train_sha256,
        "pruning": recipe.pruning.to_dict(),
        "steps": recipe.distill_steps,
        "lesson": asdict(CONFIG),
        "how": asdict(HOW),
    }
    if recipe.distinct_layers:
        about["distinct_layers"] = recipe.distinct_layers
    return Path(trained.students) / digest(about)[:16]


def load(
    source: str | Path,
    device: str = "cpu",
    precision: str | None = None,
    scope: str = "layers",
) -> tuple[nn.Module, Any]:
    """A real model and its tokenizer, from a hub name or a local folder.

    precision: where none is named, that of a folder which `save` wrote, else fp32; a
    quantized one loads bf16 weights and quantizes those that scope names. Weights that
    are stored quantized, sparse or shared come back as they are. The tokenizer is None
    where such a folder has none. Weights are read from safetensors only and no code of
    the repository is run. Raises OSError where something is missing, ValueError for a
    precision that is none or not the folder's.
    """
    check_choice("scope", scope, SCOPES)
    held = held_recipe(source)
    if held and is_stored(held):
        if precision not in (None, held.precision):
            check_choice("precision", precision, PRECISIONS)
            raise contradiction(source, held, "precision", precision)
        return load_stored(source, device), checkpoints.tokenizer_of(source)
    precision = precision or (held.precision if held else "fp32")
    if precision in QUANTIZED and (why := why_dense(str(source), scope)):
        raise ValueError(f"{source}: weights cannot be {precision}: {why}")
    model, tokenizer = checkpoints.load(source, device, precision)
    if precision in QUANTIZED:
        quantize(model, precision, scope)
    return model, tokenizer
