"""Run notebooks through papermill, one or many, each with a mark of its own at its end.

An executed notebook lies in its run's folder, results/NOTEBOOK/RUN, beside its rows.
The mark is written once the last cell has ended: papermill's own metadata say
"completed" of cells that a killed kernel never reached.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fastlab.notebook.parameters import (
    NO_BOOK,
    cells_of,
    check_parameters,
    check_values,
    notebook_parameters,
)
from fastlab.notebook.run import PLACE, results_root
from fastlab.record import write_atomically
from fastlab.spec.checks import digest

RUN_TYPE = "application/vnd.fastlab.run+json"
MARK = "fastlab"  # in the metadata of a notebook that ran to its end
START_S, LAST_S = 300, 60  # for a kernel to start, and for a cell's last output
LEAST_S = 0.1  # to wait for a cell, however late it is


class NotebookFailed(RuntimeError):
    """A run that did not reach its end; the message says where, why and what is left.

    status: "failed" where a cell raised, "timeout", or "killed" where its kernel died.
    """

    def __init__(self, status: str, why: str, executed: Path) -> None:
        super().__init__(f"{why}\nthe partly executed notebook: {executed}")
        self.status, self.why, self.executed = status, why, executed


@dataclass(frozen=True)
class Job:
    """A notebook, and the parameters given for it, which were checked."""

    notebook: Path
    parameters: dict[str, Any]

    def label(self, names: Container[str] | None = None) -> str:
        """The notebook's name and its parameters, or those of `names`, for people."""
        given = [n for n in self.parameters if names is None or n in names]
        said = (f"{name}={told(self.parameters[name])}" for name in given)
        return " ".join([self.notebook.stem, *said])

    @cached_property
    def key(self) -> str:
        """Digest of what is run: the notebook's code, and the value of each parameter.

        Words of a notebook may change, and a default may be given, for the same key.
        """
        cells = (c for c in cells_of(self.notebook) if c.get("cell_type") == "code")
        known = notebook_parameters(self.notebook)
        values = {n: p.default for n, p in known.items()} | self.parameters
        code = ["".join(cell["source"]) for cell in cells]
        return digest({"code": code, "parameters": values})

    def done(self) -> Path | None:
        """The last executed notebook of this key that has its mark."""
        runs = results_root() / self.notebook.stem
        for folder in sorted(runs.glob(f"*-{self.key[:8]}"), reverse=True):
            path = folder / self.notebook.name
            if mark_of(path).get("key") == self.key:
                return path
        return None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: finished, failed, timeout or killed; seconds it took.

    before: it was finished before this batch.
    """

    job: Job
    status: str
    executed: Path
    seconds: float
    why: str = ""
    before: bool = False


def jobs_of(
    notebooks: Iterable[Path], sets: Sequence[Mapping[str, Any]] = ({},)
) -> list[Job]:
    """Every notebook with every set of parameters, all checked; none twice.

    Raises ValueError for what is no notebook, and for a parameter that it does not
    have, of another type or with a value that no notebook knows.
    """
    jobs: dict[str, Job] = {}
    for notebook in notebooks:
        _check_format(notebook)
        for number, given in enumerate(sets, 1):
            try:
                job = Job(notebook, check_parameters(notebook, given))
                check_values(job.parameters)
                jobs.setdefault(job.notebook.stem + job.key, job)
            except ValueError as error:
                where = f"{notebook.name}, set {number} of {len(sets)}: "
                raise ValueError(where * (len(sets) > 1) + str(error)) from None
    return list(jobs.values())


def told_apart(jobs: Sequence[Job]) -> list[str]:
    """The parameters given that are not the same for all jobs, in their order."""
    names = dict.fromkeys(name for job in jobs for name in job.parameters)
    given = ((n, {repr(job.parameters.get(n, Job)) for job in jobs}) for n in names)
    return [name for name, values in given if len(values) > 1]  # Job: not given


def run_batch(
    jobs: Iterable[Job], timeout_s: float | None = None, rerun: bool = False
) -> Iterator[Outcome]:
    """Run the jobs one after the other, whatever becomes of one; tells of each.

    A job with an executed notebook that has its mark is not run again but for `rerun`.
    timeout_s: of a notebook.
    """
    for job in jobs:
        if not rerun and (path := job.done()):
            yield Outcome(job, "finished", path, mark_of(path)["seconds"], before=True)
            continue
        began = time.monotonic()
        try:
            path = execute(job, timeout_s)
            yield Outcome(job, "finished", path, mark_of(path)["seconds"])
        except NotebookFailed as error:
            spent = time.monotonic() - began
            yield Outcome(job, error.status, error.executed, spent, error.why)


def run_notebook(notebook: Path, given: Mapping[str, Any]) -> dict[str, str]:
    """Execute a notebook through papermill; returns what it left, by name.

    Raises as `jobs_of` does before the kernel starts, NotebookFailed after.
    """
    (job,) = jobs_of([notebook], [given])
    executed = execute(job)
    folder, summary = executed.parent, summary_of(executed)
    found = {"table": folder / "rows.csv", "run": folder / "run.json"}
    figures = sorted(folder.glob("*.png"))
    named = {n: str(p) for n, p in found.items() if p.exists()}
    named |= {f"figure {n}": str(p) for n, p in enumerate(figures, 1)}
    if summary:
        named = {"rows": summary["caption"]} | named
    return named | {"notebook": str(executed)}


def execute(job: Job, timeout_s: float | None = None) -> Path:
    """The executed notebook, with its mark; NotebookFailed where it has none."""
    run = f"{job.notebook.stem}/{datetime.now(UTC):%Y%m%dT%H%M%S}Z-{job.key[:8]}"
    executed = results_root() / run / job.notebook.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with patch.dict(os.environ, {PLACE: run}):  # papermill hands on no variables
        _execute(job, executed, timeout_s)
    book = json.loads(executed.read_text(encoding="utf-8"))
    spent = round(time.monotonic() - began, 1)
    mark = {"key": job.key, "parameters": job.parameters, "seconds": spent}
    words = json.dumps(book | {"metadata": book["metadata"] | {MARK: mark}}, indent=1)
    write_atomically(executed, lambda path: path.write_text(words + "\n"))
    return executed


def mark_of(path: Path) -> dict[str, Any]:
    """The mark of an executed notebook; empty where it, or the file, is missing."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["metadata"][MARK])
    except (OSError, *NO_BOOK):
        return {}


def outputs_of(executed: Path) -> Iterator[dict[str, Any]]:
    """The MIME bundles that the cells of a notebook have shown; none of a torn file."""
    try:
        cells = cells_of(executed)
    except (OSError, ValueError):
        return
    for out in (out for cell in cells for out in cell.get("outputs", [])):
        yield out.get("data", {})


def summary_of(executed: Path) -> dict[str, Any]:
    """What `Run.finish` said of a run; empty where it did not get there."""
    said = (data.get(RUN_TYPE) for data in outputs_of(executed))
    return next(filter(None, said), {})


def _execute(job: Job, executed: Path, timeout_s: float | None) -> None:
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import CellTimeoutError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # errors are raised, too
    began, at = time.monotonic(), ["its start"]

    def left(cell: Any) -> float | None:
        at.append(f"cell {cell.get('id', '')!r}")
        spent = time.monotonic() - began
        return timeout_s and max(timeout_s - spent, LEAST_S)

    def failed(status: str, why: str) -> NotebookFailed:
        return NotebookFailed(status, why, executed)

    try:
        papermill.execute_notebook(
            str(job.notebook),
            str(executed),
            parameters=job.parameters,
            language="python",
            log_output=False,
            progress_bar=sys.stderr.isatty(),
            store_widget_state=False,  # a dead explorer, and GitHub trips over it
            extra_arguments=["--log-level=CRITICAL"],  # none of sockets
            start_timeout=START_S,
            iopub_timeout=LAST_S,
            timeout_func=left,
        )
    except papermill.PapermillExecutionError as error:
        where = f"cell {error.cell_index} of {job.notebook} failed"
        raise failed("failed", f"{where}: {error.ename}: {error.evalue}") from error
    except CellTimeoutError:
        why = f"{at[-1]} of {job.notebook} ran when {timeout_s:g} s were over"
        raise failed("timeout", why) from None
    except (NoSuchKernel, ValueError) as error:
        raise failed("failed", f"{job.notebook}: {error}") from None
    except RuntimeError:
        why = f"the kernel of {job.notebook} died at {at[-1]}: killed, or out of memory"
        raise failed("killed", why) from None


def _check_format(notebook: Path) -> None:
    """Raise ValueError for what papermill reads, and does not check."""
    import nbformat

    try:
        nbformat.validate(nbformat.read(notebook, as_version=4))
    except Exception as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"{notebook} is no notebook (.ipynb): {why}") from None


def told(value: Any) -> str:
    """A parameter's value, for people."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
