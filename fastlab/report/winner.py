"""Which recipe of a store to take, call by call, and the words that have it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastlab.record import Record
from fastlab.rows import LOSSLESS, over, table
from fastlab.spec import PRESETS
from fastlab.spec.checks import canonical
from fastlab.spec.grids import SWITCHES, VERBS
from fastlab.spec.hub import weights_id
from fastlab.spec.point import Point
from fastlab.spec.recipe import PLAIN

WORSE = 0.02  # at most so much is lost by a winner
PLAIN_FIRST = ("fp32", "bf16", "fp16")  # recipes that others are compared with
MODEL = "MODEL"  # stands for a folder or hub name, which rows do not hold
KEPT = Path(__file__).parents[2] / "data" / "checkpoints"
_PARTS = {cls.__name__.lower(): cls for cls in VERBS}


def options(point: Point, source: str = MODEL) -> dict[str, Any]:
    """The flat fields that name a point, few of them: point_of(**them) == point.

    source: the folder or hub name of trained weights, or of a traced model.
    """
    told, shape = point.to_dict(), point.shape
    preset = [name for name, one in PRESETS.items() if one == shape]
    model = [source] if point.seed is None or shape.config else preset[:1]
    named = {"model": model[0]} if model else told["shape"]
    weights = "trained" if point.seed is None else point.weights
    own = {"weights": weights} if weights != "random:0" else {}
    return {**named, **told["workload"], **_recipe(point), **own}


def _recipe(point: Point) -> dict[str, Any]:
    """The flat fields of a recipe that are not the usual ones."""
    found: dict[str, Any] = {}
    for name, value in point.to_dict()["recipe"].items():
        if not (cls := _PARTS.get(name)):
            found[name] = value
            continue
        part = getattr(point.recipe, name)
        on = {n: v for n in SWITCHES.get(cls, ()) if (v := getattr(part, n))}
        found |= {VERBS[cls] + field: own for field, own in {**on, **value}.items()}
    return found


def source_of(point: Point) -> str:
    """Where its trained weights are, as far as this repository holds them."""
    for file in sorted(KEPT.glob("*/config.json")) if point.seed is None else ():
        if weights_id(file.parent) == point.weights:
            return f"data/checkpoints/{file.parent.name}"
    return MODEL


def command(point: Point, verb: str, *rest: str) -> str:
    """`fastlab VERB` with the options of a point, for a shell."""
    fields = options(point, source_of(point)).items()
    pairs = [("--" + name.replace("_", "-"), str(value)) for name, value in fields]
    return shlex.join(
        ["fastlab", verb, *(word for pair in pairs for word in pair), *rest]
    )


def python(point: Point, folder: str) -> str:
    """The point, its model, and that saved in a folder, in Python."""
    source = source_of(point)
    fields = "".join(f"    {n}={v!r},\n" for n, v in options(point, source).items())
    students = ", students='results/students'" * (point.recipe.distill_steps > 0)
    trained = f", trained=fl.Trained({source!r}{students})" * (point.seed is None)
    made = f"model = fl.build(point{trained})\nfl.save(model, {folder!r})"
    return f"import fastlab as fl\n\n[point] = fl.grid(\n{fields})\n{made}\n"


def judged(
    records: Sequence[Record], envs: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """The table of records with the recipe, call, loss and gains of each.

    call: a model and its workload, whatever the recipe; `which` tells calls apart.
    loss: bits per byte above the dense model's, as a share; without a text KL in nats;
    0 of dense fp32, missing where nobody asked. The gains are over the `baseline` of
    the call: its plain fp32 row, else bf16, else fp16, else the slowest.
    """
    points = [record.point for record in records]
    told = [
        canonical({**p.to_dict(), "recipe": r.device})
        for p, r in zip(points, records, strict=True)
    ]
    words = [", ".join(map(str, _words(point))) for point in points]
    rows = table(records, envs).assign(
        recipe=words, call=[*map(_call, points)], which=told
    )
    plain = np.array([p.recipe.weights_key == PLAIN.weights_key for p in points], bool)
    plain &= rows["cache"].isin(LOSSLESS).to_numpy()
    kl, bits, dense = (
        rows[name].astype(float)
        for name in ("kl_nats", "bits_per_byte", "dense_bits_per_byte")
    )
    kl = kl.mask(plain & kl.isna(), 0.0)
    rows = rows.assign(kl_nats=kl, loss=(bits / dense - 1).fillna(kl).mask(plain, 0.0))
    each = rows[rows["measured_ms"].notna()].groupby("which", sort=False)
    rows["baseline"] = rows.index.isin([_baseline(own) for _, own in each])
    return over(rows, ["which"], baseline=True)


def _words(point: Point) -> list[Any]:
    """A recipe in words: its precision, and what else is not as usual."""
    fields = _recipe(point)
    return [fields.pop("precision"), *(f"{n} {value}" for n, value in fields.items())]


def _call(point: Point) -> str:
    shape, work = point.shape, point.workload
    size = f"{shape.family} {shape.layers}x{shape.hidden} {work.phase}"
    new = f" +{work.new_tokens}" * (work.phase == "generate")
    return f"{size} {work.prompt_len}{new}, batch {work.batch}"


def _baseline(rows: pd.DataFrame) -> Any:
    """The index of the row that others of the same call are compared with."""
    first = (rows.index[rows["recipe"] == name] for name in PLAIN_FIRST)
    slowest = rows["measured_ms"].astype(float).idxmax()
    return next((found[0] for found in first if len(found)), slowest)


def main_call(rows: pd.DataFrame) -> pd.DataFrame:
    """The measured rows of the call of most recipes, the fastest first."""
    known = rows[rows["measured_ms"].notna()]
    counts = known.groupby("which")["recipe"].nunique()
    most = known[known["which"] == counts.idxmax()] if len(known) else known
    return most.sort_values("measured_ms", kind="stable")


def winner(rows: pd.DataFrame, worse: float = WORSE) -> pd.Series | None:
    """The fastest row that loses at most `worse`; None where none is known to."""
    fit = rows[(rows["loss"] <= worse) & rows["measured_ms"].notna()]
    return None if fit.empty else fit.loc[fit["measured_ms"].astype(float).idxmin()]


def frontier(rows: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Which rows no other beats: nowhere worse, less being better, and once better.

    A row that lacks a value is on no frontier.
    """
    values = rows[[*columns]].to_numpy(float)
    beaten = [((values <= v).all(1) & (values < v).any(1)).any() for v in values]
    return np.isfinite(values).all(axis=1) & ~np.array(beaten, bool)
