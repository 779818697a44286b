"""Which recipe of a store to take, call by call, and the words that have it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
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

FLOOR = 0.02  # of quality: a winner loses at most so much
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


def learned_from(point: Point, env: Mapping[str, Any]) -> dict[str, Any]:
    """What trained weights are made with beside the point: `text` and `students`.

    env: of a row, which names them; those that do not have the command of a sweep.
    """
    if point.seed is not None:
        return {}
    told: dict[str, Any] = {"text": [*env.get("text", ())]}
    words = str(env.get("command", "")).split()
    said = dict(pairwise(words))
    if point.recipe.distill_steps:
        named = env.get("students") or said.get("--students")
        told["students"] = named or "results/students"
    return {name: value for name, value in told.items() if value}


def command(point: Point, verb: str, env: Mapping[str, Any], *rest: str) -> str:
    """`fastlab VERB` with all options that make a point's model, for a shell."""
    words, of = ["fastlab", verb], learned_from(point, env)
    texts = [("text", file) for file in of.pop("text", ())]
    own = [*options(point, source_of(point)).items(), *texts, *of.items()]
    for name, value in own:
        words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join([*words, *rest])


def python(point: Point, env: Mapping[str, Any], folder: str) -> str:
    """The point, its model, and that saved in a folder, in Python."""
    source = source_of(point)
    fields = "".join(f"    {n}={v!r},\n" for n, v in options(point, source).items())
    of = "".join(f", {n}={v!r}" for n, v in learned_from(point, env).items())
    trained = f", trained=fl.Trained({source!r}{of})" * (point.seed is None)
    made = f"model = fl.build(point{trained})\nfl.save(model, {folder!r})"
    return f"import fastlab as fl\n\n[point] = fl.grid(\n{fields})\n{made}\n"


def judged(
    records: Sequence[Record], envs: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """The table of records with the recipe, call, loss and gains of each.

    call: a model and its workload, whatever the recipe; `which` tells calls apart.
    loss: bits per byte above the dense model's, as a share; without a text KL in nats;
    0 of dense fp32, missing where nobody asked. The gains are over the `baseline` of
    the call: its plain fp32 row, else that of its slowest recipe.
    """
    rows = table(records, envs)
    rows[["recipe", "call", "which"]] = [_words(record) for record in records]
    recipes = [record.point.recipe for record in records]
    plain = np.array([r.weights_key == PLAIN.weights_key for r in recipes], bool)
    plain &= rows["cache"].isin(LOSSLESS).to_numpy()
    ms = rows["measured_ms"] = rows["measured_ms"].astype(float)
    kl, bits = (rows[name].astype(float) for name in ("kl_nats", "bits_per_byte"))
    kl = kl.mask(plain & kl.isna(), 0.0)
    share = bits / rows["dense_bits_per_byte"].astype(float) - 1
    rows = rows.assign(kl_nats=kl, loss=share.fillna(kl).mask(plain, 0.0))
    first = ms.mask(ms.notna() & (rows["recipe"] == "fp32"), np.inf).dropna()
    rows["baseline"] = rows.index.isin(first.groupby(rows["which"]).idxmax())
    return over(rows, ["which"], baseline=True)


def _words(record: Record) -> tuple[str, str, str]:
    """Recipe and call in words, and all that makes the call."""
    point, fields = record.point, _recipe(record.point)
    shape, work = point.shape, point.workload
    named = [fields.pop("precision"), *(f"{n} {fields[n]}" for n in fields)]
    call = f"{shape.family} {shape.layers}x{shape.hidden} {work.phase} "
    call += f"{work.prompt_len}{f' +{work.new_tokens}' * (work.phase == 'generate')}"
    which = canonical(point.to_dict() | {"recipe": record.device})
    return ", ".join(named), f"{call}, batch {work.batch}", which


def main_call(rows: pd.DataFrame) -> pd.DataFrame:
    """The measured rows of the call of most recipes, the fastest first."""
    known = rows[rows["measured_ms"].notna()]
    counts = known.groupby("which")["recipe"].nunique()
    most = known[known["which"] == counts.idxmax()] if len(known) else known
    return most.sort_values("measured_ms", kind="stable")


def winner(main: pd.DataFrame, floor: float = FLOOR) -> pd.Series | None:
    """The fastest row that loses at most `floor`; None where none is known to."""
    fit = main[main["loss"] <= floor]
    return None if fit.empty else fit.iloc[0]
