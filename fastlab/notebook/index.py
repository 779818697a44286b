"""What a batch of notebooks left: a table of its runs, a page with its figures."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from fastlab.notebook.batch import Outcome, outputs_of, summary_of, told, told_apart
from fastlab.reading import texts
from fastlab.record import write_atomically

FIGURE = "<figure"  # begins what `Run.show` leaves in a cell
STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:1em auto;padding:0 1em;"
    "overflow-wrap:anywhere}td,th{padding-right:1.4em;text-align:left;"
    "white-space:nowrap}div{overflow-x:auto}figure{margin:1em 0}"
    "h2{border-top:1px solid #888;padding-top:.5em}img{max-width:100%;height:auto}"
)


def summary(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """A row for each run: parameters that tell runs apart, status, seconds, its rows.

    ratio: the median of measured / estimated over its rows, NaN without such.
    """
    apart = told_apart([outcome.job for outcome in outcomes])
    return pd.DataFrame(
        {"notebook": o.job.notebook.stem}
        | {name: told(o.job.parameters.get(name, "")) for name in apart}
        | {"status": o.status, "seconds": round(o.seconds, 1)}
        | {"rows": summary_of(o.executed).get("rows", 0), "ratio": _ratio(o.executed)}
        | {"run": o.executed.parent.name, "why": o.why}
        for o in outcomes
    )


def _ratio(executed: Path) -> float:
    try:
        rows = pd.read_csv(executed.parent / "rows.csv")
        return round(float(rows["ratio"].median()), 3)
    except (OSError, KeyError, ValueError, TypeError):
        return math.nan


def write_index(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write index.html: the summary, then of each run its links and its figures.

    The page holds its figures, and can be passed on alone; its links cannot.
    """
    table, name = texts(summary(outcomes)), html.escape(folder.name)
    done = sum(o.status == "finished" for o in outcomes)
    title = f"{name}: {done} of {len(outcomes)} notebooks finished"
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">',
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>",
        f"<div>{table.drop(columns='why').to_html(index=False, border=0)}</div>",
        *(part for outcome in outcomes for part in _section(outcome, folder)),
        "</html>\n",
    ]
    path, page = folder / "index.html", "\n".join(parts).encode()
    write_atomically(path, lambda fresh: fresh.write_bytes(page))
    return path


def _section(outcome: Outcome, folder: Path) -> Iterator[str]:
    yield f"<h2>{html.escape(outcome.job.label())}</h2>"
    if outcome.why:
        yield f"<p>{html.escape(f'{outcome.status}: {outcome.why}')}</p>"
    run = outcome.executed.parent
    left = (run / n for n in (outcome.executed.name, "rows.csv", "run.json"))
    links = (_link(path, folder) for path in left if path.exists())
    yield f"<p>{', '.join(links)}</p>"
    for data in outputs_of(outcome.executed):
        markup = "".join(data.get("text/html", ""))
        if markup.startswith(FIGURE):
            yield markup


def _link(path: Path, folder: Path) -> str:
    place = quote(Path(os.path.relpath(path, folder)).as_posix())
    return f'<a href="{place}">{html.escape(path.name)}</a>'
