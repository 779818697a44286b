"""What every notebook does: start(), rows measured or replayed, finish()."""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlab import machine
from fastlab.clock.timing import Settings
from fastlab.figures.grammar import show
from fastlab.latency.devices import Device
from fastlab.notebook.progress import NotebookLine, steps
from fastlab.reading import sample_counts
from fastlab.record import Record
from fastlab.rows import table, with_missing
from fastlab.spec.checks import check_choice, check_names
from fastlab.spec.formats import DENSE
from fastlab.spec.grids import GRID_FIELDS, grid
from fastlab.spec.point import Point
from fastlab.sweeps.keeping import write_table
from fastlab.sweeps.reference import Reference, reference_for, references
from fastlab.sweeps.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.figures.grammar import Figure, Shown
    from fastlab.shrink.trained import Trained

SOURCES = ("auto", "measure", "replay")
PLACE = "FASTLAB_RUN"  # NOTEBOOK/RUN under results/, where a command has chosen it
SETTINGS_FIELDS = tuple(Settings.__dataclass_fields__)


def start(
    notebook: str,
    source: str = "auto",
    points: Sequence[Point] = (),
    trained: Trained | None = None,
    partial: bool = False,
    **params: Any,
) -> Run:
    """Check a notebook's parameters before any work, and open its results folder.

    Grid fields (`layers`, `precision`, ...) become the run's points, after any `points`
    given; timing settings (`budget_s`, ...) its settings, and of the two that are
    called `cache` the setting. source: "measure" on the device at hand, "replay" stored
    reference rows, or "auto": measure on a GPU, else replay if all points are stored.
    trained: where weights that are not random come from. partial: "auto" replays what
    is stored of the points, for lists that take a CPU ten minutes.
    Raises ValueError naming what is wrong.
    """
    check_choice("source", source, SOURCES)
    kind = machine.torch_device()
    timing = {n: v for n, v in params.items() if n in SETTINGS_FIELDS}
    lists = {n: v for n, v in params.items() if n not in timing}
    check_names("parameter", lists, (*GRID_FIELDS, *SETTINGS_FIELDS))
    settings = Settings.for_device(kind, **timing)
    points = [*points, *(grid(**lists) if lists else [])]
    may_replay = source == "replay" or (source == "auto" and kind == "cpu")
    reference = reference_for(points) if may_replay else None
    some = reference is not None and len(reference.rows(points)) < len(points)
    if some and source == "auto" and not partial:
        reference = None  # nothing that was asked for is dropped without a word
    if source == "replay" and reference is None:
        raise ValueError(
            "source='replay' finds no row for these parameters; "
            f"data/reference has {reference_devices()}: use source='measure'"
        )
    return Run(notebook, params, points, kind, settings, reference, trained=trained)


def reference_devices() -> str:
    """The devices under data/reference, or "nothing"."""
    return ", ".join(r.folder.name for r in references()) or "nothing"


def results_root() -> Path:
    """results/ of the checkout that the working folder lies in, else of this folder."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "fastlab" / "__init__.py").exists():
            return folder / "results"
    return here / "results"


def _run_id() -> str:
    chosen = os.environ.get(PLACE, "").rpartition("/")[-1]
    return chosen or f"{datetime.now(UTC):%Y%m%dT%H%M%S}Z"


@dataclass
class Run:
    """One run of a notebook: its points, where its rows come from and go to."""

    notebook: str
    params: dict[str, Any]
    points: list[Point]
    kind: str
    settings: Settings
    reference: Reference | None = None
    id: str = field(default_factory=_run_id)
    trained: Trained | None = None

    @property
    def is_replay(self) -> bool:
        """Whether rows() shows stored rows instead of measuring."""
        return self.reference is not None

    @property
    def device(self) -> str:
        """Name of the device that the rows are from."""
        own = self.reference
        return own.device if own else machine.device_name(self.kind)

    @property
    def profile(self) -> Device | None:
        """What estimates are made with: this device calibrated, or the rows' device.

        None where rows are replayed from a device that nothing is known about.
        """
        from fastlab.clock.calibrate import this_device

        return self.reference.profile if self.reference else this_device(self.kind)

    @property
    def folder(self) -> Path:
        """results/<notebook>/<run id>, made when something is written to it.

        `fastlab run` and `batch` choose it, for the executed notebook to lie there too.
        """
        return results_root() / os.environ.get(PLACE, f"{self.notebook}/{self.id}")

    @property
    def store(self) -> Store:
        """Where this notebook's measured rows are kept, for all its runs."""
        return Store(results_root() / self.notebook / "store")

    def rows(self) -> pd.DataFrame:
        """A row for each of the points, replayed, or measured where still missing.

        A replayed point that is not stored is there with an estimate, status "missing".
        """
        if self.reference is None:
            return table(self._measured(), self.store.envs())
        records = self.reference.rows(self.points)
        stored = table(records, Store(self.reference.folder).envs())
        return with_missing(stored, self.points, self.device, self.profile)

    def records(self) -> list[Record]:
        """All that may be scored: every stored row of the device, or the run's own."""
        return self.reference.records if self.reference else self._measured()

    def _measured(self) -> list[Record]:
        from fastlab.clock.measure import Bench
        from fastlab.sweeps.run import measured, rows_of

        shown = NotebookLine()
        with steps(0, "measuring what this device can do", shown):
            bench = Bench.for_device(self.kind, self.settings, trained=self.trained)
        list(measured(self.points, self.store, bench, shown.points))
        return rows_of(self.points, self.store, bench)

    @property
    def caption(self) -> str:
        """Measured or replayed, on what, and when: for figures.

        And whether estimates are made with rates of a busy machine.
        """
        from fastlab.clock.calibrate import kept

        used = self.reference.profile if self.reference else kept(self.kind)
        said = f"measured on {self.device}, {self.settings.cache} cache"
        if self.reference is not None:
            stored = self.reference.rows(self.points)
            first = min(record.at_utc for record in stored)[:10]
            said = f"replayed: {self.device}, measured {first}"
            if len(stored) < len(self.points):
                said += f", {len(stored)} of {len(self.points)} points"
        return f"{said}; {used.trust}" if used and used.trust else said

    def show(
        self,
        figure: Figure,
        name: str,
        caption: str | None = None,
        guess: object = None,
    ) -> Shown:
        """The figure for a cell, with where its rows are from; kept as <name>.png.

        caption: instead of the run's own, which says how many samples stand behind.
        guess: what the reader predicted, told at the end of the caption.
        """
        if caption is None:
            rows = figure.table
            caption = self.caption
            caption += f"; {sample_counts(rows)}" if "n" in rows else ""
        caption += "" if guess is None else f"; you guessed {guess}"
        return show(figure, caption, self.path(f"{name}.png"))

    def path(self, name: str) -> Path:
        """A file of this run's folder, which is made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / name

    def finish(self, rows: pd.DataFrame) -> Finished:
        """Write rows.csv and run.json; the same summary is shown as the cell's output.

        Raises ValueError for rows of more than one device: such tables mislead.
        """
        devices = sorted(set(rows["device"])) if len(rows) else []
        if len(devices) > 1:
            raise ValueError(f"rows must be of one device, not of {', '.join(devices)}")
        write_table(rows, self.path("rows.csv"))
        summary = {
            "notebook": self.notebook,
            "run": self.id,
            "params": self.params,
            "rows": len(rows),
            "statuses": dict(Counter(rows["status"].astype(str))) if len(rows) else {},
            "replayed": self.is_replay,
            "rows_from": self.device,
            "caption": self.caption,
            "folder": self.folder.relative_to(results_root().parent).as_posix(),
            "settings": self.settings.to_dict(),
            "environment": machine.environment(self.kind),
        }
        self.path("run.json").write_text(json.dumps(summary, indent=1) + "\n")
        return Finished(summary)

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(repr(self))}</b></p>"

    def __repr__(self) -> str:
        real = [p for p in DENSE if not machine.unsupported_reason(self.kind, p)]
        here = f"torch {machine.versions()['torch']}; runs {', '.join(real)} natively"
        what = f"{len(self.points)} points, {self.caption}"
        return f"{self.notebook}: {what} | this machine: {here}"


@dataclass(frozen=True)
class Finished:
    """The summary of a run, as text and as JSON for tools that collect runs.

    Executed notebooks are passed on: what only this machine has is not in it.
    """

    summary: dict[str, Any]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        shared = {k: v for k, v in self.summary.items() if k != "environment"}
        return {"text/plain": repr(self), "application/vnd.fastlab.run+json": shared}

    def __repr__(self) -> str:
        counts = self.summary["statuses"].items()
        words = ", ".join(f"{n} {status}" for status, n in counts)
        return f"{self.summary['rows']} rows ({words}) in {self.summary['folder']}"
