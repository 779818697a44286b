"""fastlab search: from a scenario, a target and a floor to the recipe."""

from __future__ import annotations

import math
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from fastlab.cli.points import device_option, echo_table, main, say, stopped

SHOWN = 12  # rows of a table, where --all does not ask for more
FLOOR_HELP = "largest rise of bits per byte, 0.02 = 2 %, or none [the scenario's]"
FOUND = (
    *("latency_ms", "basis", "estimated_ms", "ttft_ms", "tpot_ms", "load", "loss"),
    *("memory_gb", "usd_per_1000", "verdict"),
)


@main.command()
@click.option("--space", type=click.Path(), required=True, help="as in data/spaces")
@click.option("--scenario", default="", help="of data/scenarios.yaml, or a file")
@click.option("--model", default="", help="for all grids of the space")
@click.option("--lam", type=float, default=math.inf, help="weight of T beside C [T]")
@click.option("--floor", default="scenario", help=FLOOR_HELP)
@click.option("--budget-points", type=int, help="measure so many candidates at most")
@click.option("--budget-minutes", type=float, help="be done after so many")
@click.option("--on", default="here", show_default=True, help="here, or a GPU: h200")
@click.option("--store", default="results/search", show_default=True)
@click.option("--isolation", default="worker", help="worker, process or inline")
@click.option("--all", "every", is_flag=True, help="show every candidate")
@device_option
def search(floor: Any, every: bool, **how: Any) -> None:
    """Find the fastest recipe of a space that is good enough, measuring few.

    The same command after an interruption goes on where it stopped.
    """
    from fastlab.searches.run import search as run

    with suppress(ValueError):  # search() refuses what is neither
        floor = None if floor == "none" else float(floor)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        result = run(floor=floor, say=lambda line: say(line, err=True), **how)
    except KeyboardInterrupt:
        stopped("every finished row is kept")
        sys.exit(130)
    from fastlab.reading import tells_apart

    names = ["layers", "hidden", "precision"]
    names += [*tells_apart(result.table, names), *FOUND]
    for title, rows in ("", result.table), ("frontier", result.frontier):
        own = [name for name in names if rows[name].notna().any()]
        if len(rows):
            echo_table((rows if every else rows.head(SHOWN))[own], title)
    for low, high, i in result.along():
        say(f"lambda {low:.3g} to {high:.3g}: {result.name(i)}")
    for line in result.words():
        say(line)
    if how["on"] == "here":
        from fastlab.sweeps.keeping import write_table

        write_table(result.table, Path(how["store"]) / "search.csv")
    sys.exit(0 if result.winners else 1)
