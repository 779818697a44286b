"""The article's path on a trained model: pruned, distilled, quantized, compiled.

Each step is estimated before it is built, then timed, and judged on held-out text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastlab as fl
from fastlab import machine
from fastlab.figures.article import CUT, path
from fastlab.notebook.progress import Line, line
from fastlab.record import Record
from fastlab.spec.point import Point

if TYPE_CHECKING:
    from fastlab.clock.measure import Bench
    from fastlab.shrink.trained import Trained

# As the article's own cut; two groups of heads cannot lose a third. What goes is what
# the text needs least.
LIVE_CUT: dict[str, Any] = CUT | {"prune_heads": 0, "prune_multiple": 16}
LIVE_CUT |= {"prune_layer_choice": "influence", "prune_importance": "activation"}
DYNAMIC = {"int8": "int8-dynamic", "fp8": "fp8-dynamic"}  # for many rows at once
BLOCKS = 16  # of held-out text
BATCH, LENGTH = 8, 256  # sequences of a step of distilling, and their tokens


@dataclass(frozen=True)
class PipelineResult:
    """The steps of one trained model (name -> point), and what came of each.

    losses: of each step of distilling. missing says why there are no records.
    """

    steps: dict[str, Point] = field(default_factory=dict)
    records: Sequence[Record] = ()
    losses: Sequence[float] = ()
    missing: str = ""
    device: str = "nothing"

    def __repr__(self) -> str:
        if self.missing:
            return f"nothing runs live: {self.missing}"
        words = f"{len(self.records)} steps on {self.device}, judged on the same text"
        if self.losses:
            ends = f"loss {self.losses[0]:.2f} to {self.losses[-1]:.2f}"
            words += f"; distilled for {len(self.losses)} steps: {ends}"
        return words


def pipeline_points(
    folder: str | Path,
    prompt_len: int = 1024,
    distill_steps: int = 40,
    formats: Sequence[str] = ("bf16", "int8"),
    compiled: bool = True,
) -> dict[str, Point]:
    """step -> prefill of so many tokens: dense, pruned, distilled, 16 bit, 8 bit, ...

    The prompt is no longer than the model has positions for. 8-bit formats quantize
    activations too, since many rows are computed at once. Raises ValueError for a
    negative number of steps, OSError for a folder that is none.
    """
    from fastlab.spec.hub import read_shape

    length = min(prompt_len, read_shape(str(folder)).max_positions)
    added: dict[str, dict[str, Any]] = {"dense": {}, "pruned": LIVE_CUT}
    added["distilled"] = {"distill_steps": distill_steps}
    for bits, name in zip(("16 bit", "8 bit"), formats, strict=False):
        added[bits] = {"precision": DYNAMIC.get(name, name)}
    added |= {"compiled": {"runtime": "compile"}} if compiled else {}
    return path(added, model=str(folder), weights="trained", prompt_len=length)


def run_pipeline(
    model: str, student: Path, text: str = "", budget_s: float = 0.5, **how: Any
) -> PipelineResult:
    """Run the steps of `pipeline_points(**how)` on this machine's device.

    model: the name of one under data/checkpoints, or a folder; where there is none, the
    result says so and nothing runs. student: where the distilled model is written.
    text: a file that teaches and judges instead of the standard library.
    """
    from fastlab.checkpoints import without_bars

    folder = Path(fl.checkpoint_folder(model)) if model else None
    if folder is None or not (folder / "config.json").exists():
        missing = f"no trained model {model!r} under data/checkpoints"
        return PipelineResult(missing=missing)
    trained = fl.Trained(str(folder), (text,) if text else ())
    steps = pipeline_points(folder, **how)
    kind, shown = machine.torch_device(), line()
    own = [r.profile for r in fl.references() if r.device == machine.device_name(kind)]
    settings = fl.Settings.for_device(kind, budget_s=budget_s)
    bench = fl.Bench.for_device(kind, settings, *own[:1], trained=trained)
    bench.judge = False  # `Evaluator` does, on fewer blocks
    with without_bars():
        losses = _distilled(steps, trained, student, kind, shown)
        records = list(_measured(steps, trained, student, bench, shown))
    return PipelineResult(steps, records, losses, device=bench.name)


def _distilled(
    steps: dict[str, Point], trained: Trained, student: Path, kind: str, shown: Line
) -> list[float]:
    """Prune, distil, write the student; the loss of each step."""
    from fastlab.learning.checkpoint import export_model

    if "distilled" not in steps:
        return []
    recipe = steps["distilled"].recipe
    count, losses = recipe.distill_steps, []
    length = min(LENGTH, steps["dense"].shape.max_positions)
    with shown.steps(count, "the pruned model learns") as done:

        def on_row(row: dict[str, float]) -> None:
            losses.append(row["loss"])
            done(f"loss {row['loss']:.2f}")

        pruned = fl.built(trained, replace(recipe, distill_steps=0)).to(kind)
        ids = trained.seen(length, BATCH * count).flatten()
        how = {"how": fl.Training(batch=BATCH, block=length, warmup=5)}
        how |= {"config": fl.DistillConfig(temperature=1.0), "on_row": on_row}
        fl.distill(pruned, fl.built(trained).to(kind), ids, count, **how)
        export_model(pruned, trained.tokenizer, student)
    return losses


def _measured(
    steps: dict[str, Point], trained: Trained, student: Path, bench: Bench, shown: Line
) -> Iterator[Record]:
    """Each step measured; quality of what was built on the same blocks."""
    evaluator, kind = fl.Evaluator.of(trained, fl.built(trained), BLOCKS), bench.kind
    for point in shown.points(list(steps.values())):
        model, recipe = None, point.recipe
        able = not machine.unsupported_reason(kind, recipe.precision)
        if able and recipe.distill_steps:
            model, _ = fl.load(student, kind, recipe.precision, recipe.scope)
        elif able:
            model = fl.build(point, kind, trained)
        bench.use_model(point, model)
        record = bench.measure(point)
        if model is not None and record.status == "ok":
            record = replace(record, quality=evaluator.quality(model.to("cpu")))
            model.to(kind)
        yield record
