"""fastlab models: the presets, and what works in which family of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fastlab.cli.points import echo_table, main
from fastlab.spec import PRESETS
from fastlab.spec.checks import check_choice
from fastlab.words import si

DATA = Path(__file__).parents[2] / "data"


@main.command()
@click.argument("name", required=False)
def models(name: str | None) -> None:
    """The presets, and what works in each family; with a NAME of either: why not.

    Any other model_type of transformers that reads text may work as well: `fastlab
    predict --model FOLDER` says so at once.
    """
    import pandas as pd

    families = pd.read_csv(DATA / "families.csv", dtype=str, keep_default_na=False)
    if name is None:
        echo_table(pd.DataFrame(map(_preset, PRESETS)), "--model")
        columns = families.drop(columns=["transformers", "torch", "date"])
        echo_table(columns.map(_short), "--family, or a folder's")
        click.echo("\ntried at 4 layers x 64; models TYPE says why not, and when")
        return
    check_choice("name", name, [*PRESETS, *families.model_type])
    family = PRESETS[name].family if name in PRESETS else name
    (line,) = families[families.model_type == family].to_dict("records")
    for column, value in line.items():
        click.echo(f"{column:<12} {value}")


def _preset(name: str) -> dict[str, str]:
    from fastlab.cost.memory import parameters

    about = json.loads((DATA / "models.json").read_text(encoding="utf-8"))
    shape, known = PRESETS[name], about.get(name, {})
    count = known.get("parameters") or parameters(shape)
    row = {"preset": name, "family": shape.family, "parameters": si(count)}
    return row | {"source": known.get("source", "")}


def _short(said: str) -> str:
    """A reason as "no", or as "partly" where it says a yes too; names stay."""
    if len(said.split()) == 1:
        return said
    return "partly" if ": yes" in said else "no"
