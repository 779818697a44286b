"""fastlab models: the presets, and what works in which family of transformers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import click

from fastlab.cli.points import echo_table, main
from fastlab.spec import PRESETS
from fastlab.spec.checks import check_choice
from fastlab.words import si

DATA = Path(__file__).parents[2] / "data"
TRIED = ("counted", "measured", "quantized", "decoded", "pruned")


@main.command()
@click.argument("name", required=False)
def models(name: str | None) -> None:
    """The presets, and what works in each family; with a NAME of either: why not.

    Any other model_type of transformers that reads text may work as well: `fastlab
    predict --model FOLDER` says so at once.
    """
    with (DATA / "families.csv").open(newline="", encoding="utf-8") as file:
        families = {line["model_type"]: line for line in csv.DictReader(file)}
    if name is None:
        _echo_all(families)
        return
    check_choice("name", name, [*PRESETS, *families])
    family = PRESETS[name].family if name in PRESETS else name
    for column, value in families[family].items():
        click.echo(f"{column:<12} {value}")


def _echo_all(families: dict[str, dict[str, str]]) -> None:
    import pandas as pd

    from fastlab.cost.memory import parameters

    about = json.loads((DATA / "models.json").read_text(encoding="utf-8"))
    presets = []
    for name, shape in PRESETS.items():
        known = about.get(name) or {"parameters": parameters(shape), "source": ""}
        row = {"preset": name, "family": shape.family}
        row["parameters"] = si(known["parameters"])
        presets.append(row | {"source": known["source"]})
    echo_table(pd.DataFrame(presets), "--model")
    rows = pd.DataFrame(families.values())
    rows[[*TRIED]] = rows[[*TRIED]].map(_short)
    echo_table(rows[["model_type", "kind", *TRIED]], "--family, or a folder's")
    versions = f"transformers {rows.transformers.iloc[-1]}, torch {rows.torch.iloc[-1]}"
    click.echo(f"\ntried at 4 layers x 64 with {versions}; models TYPE says why not")


def _short(said: str) -> str:
    return "yes" if said == "yes" else "partly" if ": yes" in said else "no"
