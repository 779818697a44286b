"""fastlab run, generate and doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fastlab.cli.group import main
from fastlab.cli.points import DEVICE_HELP, echo_table, shown

SHOWN_ROWS = 12


@main.command()
@click.argument("notebook", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "-p", "--parameter", "pairs", nargs=2, multiple=True, metavar="NAME VALUE"
)
def run(notebook: str, pairs: tuple[tuple[str, str], ...]) -> None:
    """Run a NOTEBOOK with parameters that are checked first; keep its results."""
    from fastlab.view.batch import run_notebook

    result = run_notebook(Path(notebook), dict(pairs))
    if "table" in result:
        _echo_rows(result["table"])
    for name, path in result.items():
        click.echo(f"{name + ':':<10} {path}")


def _echo_rows(path: str) -> None:
    """Estimate, measurement and ratio of the first rows, and how the ratios lie."""
    import pandas as pd

    rows = pd.read_csv(path, keep_default_na=False, na_values=[""])
    if not {"measured_ms", "ratio"} <= set(rows.columns):
        return
    echo_table(shown(rows.fillna({"reason": "", "flags": ""})).head(SHOWN_ROWS))
    ratios = rows["ratio"].dropna()
    within = int(ratios.between(1 / 1.25, 1.25).sum())
    click.echo(
        f"{len(rows)} rows; measured / estimated: median {ratios.median():.2f}, "
        f"{within} of {len(ratios)} within a factor of 1.25\n"
    )


@main.command()
@click.argument("prompt")
@click.option("--model", required=True, help="hub name or local folder")
@click.option("--new-tokens", default=32, show_default=True)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
def generate(
    prompt: str, model: str, new_tokens: int, precision: str, device: str
) -> None:
    """Continue PROMPT with a real model: text in, text out."""
    from fastlab import machine
    from fastlab.models import generate_text, load
    from fastlab.spec.checks import check_choice
    from fastlab.spec.precision import PRECISIONS

    check_choice("precision", precision, PRECISIONS)
    loaded, tokenizer = load(model, machine.torch_device(device), precision)
    click.echo(prompt + generate_text(loaded, tokenizer, prompt, new_tokens))


@main.command()
@click.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
@click.option("--store", type=click.Path(), help="also check the rows kept here")
def doctor(device: str, store: str | None) -> None:
    """What works on this machine, and how to mend what does not."""
    from fastlab.doctor import Report, findings

    found = []
    for finding in findings(device, store):
        click.echo(finding)
        found.append(finding)
    report = Report(tuple(found))
    click.echo(report.summary)
    if not report.ok:
        sys.exit(1)
