"""The article's path, walked on a trained model: cut, taught, quantized, compiled.

Each step is estimated before it is built, then timed, and judged on held-out text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlab.checkpoints import without_bars
from fastlab.clock.evaluator import Evaluator, built
from fastlab.notebook.progress import Line, line
from fastlab.record import Record
from fastlab.shrink.trained import checkpoint_folder
from fastlab.spec.checks import check_count
from fastlab.spec.grids import point_of
from fastlab.spec.point import Point
from fastlab.view.tables.case import CUT

if TYPE_CHECKING:
    from torch import nn

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
class Walk:
    """The steps of one trained model: what is run, and what came of it.

    steps: name -> point. records: measured, in their order; losses: (step, loss) of
    distilling. missing says why there are none.
    """

    steps: dict[str, Point] = field(default_factory=dict)
    records: tuple[Record, ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    missing: str = ""
    device: str = ""

    def __repr__(self) -> str:
        if self.missing:
            return f"nothing runs live: {self.missing}"
        words = f"{len(self.records)} steps on {self.device}, judged on the same text"
        if not self.losses:
            return words
        (_, first), (last, loss) = self.losses[0], self.losses[-1]
        return f"{words}; distilled for {last} steps: loss {first:.2f} to {loss:.2f}"


def walk_points(
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

    check_count("distill_steps", distill_steps, low=0)
    length = min(prompt_len, read_shape(str(folder)).max_positions)
    common = {"model": str(folder), "weights": "trained", "prompt_len": length}
    now: dict[str, Any] = dict(common)
    added: dict[str, dict[str, Any]] = {"dense": {}, "pruned": LIVE_CUT}
    added["distilled"] = {"distill_steps": distill_steps}
    for bits, name in zip(("16 bit", "8 bit"), formats, strict=False):
        added[bits] = {"precision": DYNAMIC.get(name, name)}
    if compiled:
        added["compiled"] = {"runtime": "compile"}
    steps: dict[str, Point] = {}
    for name, fields in added.items():
        now |= fields
        if (point := point_of(**now)) not in steps.values():
            steps[name] = point
    return steps


def walk(
    model: str,
    place: Path,
    text: str = "",
    budget_s: float = 0.5,
    **how: Any,
) -> Walk:
    """Run the steps of `walk_points(**how)` on this machine's device.

    model: the name of one under data/checkpoints, or a folder; where there is none, the
    walk says so and nothing runs. The distilled student is written to `place`. text: a
    file that teaches and judges instead of the standard library.
    """
    from fastlab.shrink.trained import Trained

    folder = Path(checkpoint_folder(model)) if model else None
    if folder is None or not (folder / "config.json").exists():
        return Walk(missing=f"no trained model {model!r} under data/checkpoints")
    trained = Trained(str(folder), (text,) if text else ())
    steps = walk_points(folder, **how)
    bench = _bench(trained, budget_s)
    shown = line()
    losses = _taught(steps, trained, place, bench.kind, shown)
    records = _walked(steps, trained, place, bench, shown)
    return Walk(steps, tuple(records), tuple(losses), device=bench.name)


def _bench(trained: Trained, budget_s: float) -> Bench:
    """This machine's, with the profile of data/reference where that is its own."""
    from fastlab import machine
    from fastlab.clock.measure import Bench
    from fastlab.clock.timing import Settings
    from fastlab.sweeps.reference import references

    kind = machine.torch_device()
    settings = Settings.for_device(kind, budget_s=budget_s)
    own = [r.profile for r in references() if r.device == machine.device_name(kind)]
    bench = Bench.for_device(kind, settings, own[0] if own else None, trained=trained)
    return replace(bench, judge=False)  # by `Evaluator`, on fewer blocks


def _taught(
    steps: dict[str, Point], trained: Trained, place: Path, kind: str, shown: Line
) -> list[tuple[int, float]]:
    """Prune, distil, write the student to `place`; the loss of each step."""
    from fastlab.learning.checkpoint import export_model
    from fastlab.learning.distilling import DistillConfig, distill
    from fastlab.learning.loop import Training

    if "distilled" not in steps:
        return []
    recipe = steps["distilled"].recipe
    count = recipe.distill_steps
    length = min(LENGTH, steps["dense"].shape.max_positions)
    losses: list[tuple[int, float]] = []
    with shown.steps(count, "the pruned model learns") as done, without_bars():
        dense = built(trained).to(kind)
        student = built(trained, replace(recipe, distill_steps=0)).to(kind)

        def told(row: dict[str, float]) -> None:
            losses.append((int(row["step"]), row["loss"]))
            done(f"loss {row['loss']:.2f}")

        distill(
            student,
            dense,
            trained.seen(length, BATCH * count).flatten(),
            count,
            config=DistillConfig(temperature=1.0),
            how=Training(batch=BATCH, block=length, warmup=5),
            on_row=told,
        )
        export_model(student, trained.tokenizer, place)
    return losses


def _walked(
    steps: dict[str, Point], trained: Trained, place: Path, bench: Bench, shown: Line
) -> list[Record]:
    """Each step measured; quality of what was built on the same blocks."""
    records: list[Record] = []
    with without_bars():
        judge = Evaluator.of(trained, built(trained), BLOCKS)
        for point in shown.points(list(steps.values())):
            model = _model(point, trained, place, bench.kind)
            if isinstance(model, str):
                records.append(_refused(point, bench, model))
                continue
            bench.use_model(point, model)
            record = bench.measure(point)
            if record.status == "ok":
                record = replace(record, quality=_judged(model, judge))
            records.append(record)
    return records


def _model(point: Point, trained: Trained, place: Path, kind: str) -> nn.Module | str:
    """The point's model, from the student where it was taught; or why there is none."""
    from fastlab import machine
    from fastlab.shrink.recipes import build, load

    recipe = point.recipe
    if reason := machine.unsupported_reason(kind, recipe.precision):
        return reason
    if not recipe.distill_steps:
        return build(point, kind, trained)
    model, _ = load(place, kind, recipe.precision, recipe.scope)
    return model


def _refused(point: Point, bench: Bench, reason: str) -> Record:
    settings = bench.settings.to_dict()
    return Record(point, bench.name, settings, "unsupported", reason=reason)


def _judged(model: nn.Module, judge: Evaluator) -> Any:
    device = next(model.parameters()).device
    quality = judge.quality(model.to("cpu"))
    model.to(device)
    return quality
