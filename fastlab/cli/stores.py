"""fastlab table, check, export, report, merge: stores as they are, and as files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastlab.cli.points import echo_table, main, say, shown

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.sweeps.lines import BadLine
    from fastlab.sweeps.store import Store

SHOWN = 10  # lines of one kind that are listed one by one
folder_argument = click.Path(exists=True, file_okay=False)
mix_hosts_option = click.option(
    "--mix-hosts", is_flag=True, help="rows of one device may be of several hosts"
)
FLOOR_HELP = "what a winner may lose: share of bits per byte, without a text nats of KL"
floor_option = click.option(
    "--floor",
    type=click.FloatRange(0),
    default=0.02,
    show_default=True,
    help=FLOOR_HELP,
)


def store_of(folder: str) -> Store:
    """The store in a folder; ValueError where there is none."""
    from fastlab.sweeps.store import Store

    if not any(Path(folder).glob("*.jsonl")):
        raise ValueError(f"{folder} is no store: it has no .jsonl file")
    return Store(folder)


def _rows(folder: str) -> tuple[pd.DataFrame, list[BadLine]]:
    """The table of a store, and the lines of it that could not be read."""
    from fastlab.rows import table as tabulate

    store, bad = store_of(folder), list["BadLine"]()
    return tabulate(store.each(samples=False, bad=bad), store.envs()), bad


@main.command()
@click.argument("folder", type=folder_argument)
@click.option("--csv", "csv", type=click.Path(), help="write all columns here")
def table(folder: str, csv: str | None) -> None:
    """The rows of a store, and the lines of it that could not be read."""
    from fastlab.sweeps.keeping import write_table

    rows, bad = _rows(folder)
    if csv:
        write_table(rows, Path(csv))
    echo_table(shown(rows))
    _list("skipped", bad, sys.maxsize)
    for name in store_of(folder).torn():
        say(f"torn tail kept aside: {name}", err=True)


def _list(what: str, lines: Sequence[BadLine], most: int = SHOWN) -> None:
    for bad in lines[:most]:
        say(f"{what} {bad.file} line {bad.line}: {bad.why}", err=True)
    if len(lines) > most:
        say(f"{what} {len(lines) - most} more", err=True)


@main.command()
@click.argument("folder", metavar="STORE", type=folder_argument)
def check(folder: str) -> None:
    """Read every line of a STORE, and count what is wrong with it.

    Exit status 1 where a row was lost: a line is not as it was written.
    """
    found = store_of(folder).health()
    lost = [line for line in found.bad if line.is_damaged]
    foreign = [line for line in found.bad if not line.is_damaged]
    say(f"{found.records} rows and {found.envs} runs in {found.files} files")
    for count, words in (
        (len(lost), "damaged lines: what they held is lost"),
        (len(foreign), "lines of another version, or not ours"),
        (len(found.torn), "torn tails, of rows that were never kept"),
        (found.doubled, "rows that are there once more"),
        (found.unfinished, "attempts that began and left no row"),
        (found.poison, "points left alone, as workers died of them"),
    ):
        if count:
            say(f"{count:>8} {words}")
    _list("damaged", lost)
    _list("foreign", foreign)
    sys.exit(1 if lost else 0)


@main.command()
@click.argument("folder", metavar="STORE", type=folder_argument)
@click.option("--to", default="csv", show_default=True, help="csv or parquet")
@click.option("--out", type=click.Path(dir_okay=False), help="[STORE/rows.<to>]")
def export(folder: str, to: str, out: str | None) -> None:
    """Write the rows of a STORE, with all columns, for pandas, DuckDB and others."""
    from fastlab.sweeps.keeping import check_format, write_table

    check_format(to)
    rows, bad = _rows(folder)
    write_table(rows, path := Path(out or Path(folder) / f"rows.{to}"), to)
    _list("skipped", bad)
    say(f"{len(rows)} rows: {path}")


@main.command()
@click.argument("folder", metavar="STORE", type=folder_argument)
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False), help="[STORE/report.html]"
)
@floor_option
def report(folder: str, out: str | None, floor: float) -> None:
    """Write one page about a STORE that needs no network: what to run, and why."""
    from fastlab.record import write_atomically
    from fastlab.report.page import page

    path = Path(out or Path(folder) / "report.html")
    made = page(store_of(folder), floor)
    write_atomically(path, lambda fresh: fresh.write_text(made, encoding="utf-8"))
    say(f"{path}: {len(made.encode()) / 1e3:.0f} kB")


@main.command()
@click.argument("folders", nargs=-1, required=True, type=folder_argument)
@click.option("--into", type=click.Path(file_okay=False), required=True)
@mix_hosts_option
def merge(folders: tuple[str, ...], into: str, mix_hosts: bool) -> None:
    """Bring the rows of several stores together in one; nothing is changed.

    Rows keep where and when they were measured. Again, it copies what is new.
    """
    from fastlab.sweeps.keeping import merge as merged
    from fastlab.sweeps.store import Store

    found = merged([*map(store_of, folders)], Store(into), mix_hosts)
    _list("skipped", found.bad)
    for words in found.conflicts[:SHOWN]:
        say(f"twice: {words}", err=True)
    often = len(found.conflicts)
    twice = f"; {often} of points that are in two stores" * bool(often)
    say(f"{found.rows} new rows in {into}{twice}")
