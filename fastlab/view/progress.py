"""Progress that fits the place: a tqdm bar in a terminal, one line in a notebook."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Iterable, Sequence

from fastlab.spec.point import Point
from fastlab.sweeps.run import Progress, terminal_progress


def progress() -> Progress:
    """One updating line in a notebook, a tqdm bar in a terminal."""
    return notebook_progress if _in_notebook() else terminal_progress


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and "IPKernelApp" in str(
        getattr(shell.get_ipython(), "config", "")
    )


def notebook_progress(points: Sequence[Point]) -> Iterable[Point]:
    """A line that updates in place and leaves one final line in the saved notebook."""
    from IPython.display import HTML, display

    began = time.monotonic()
    line = display(HTML(""), display_id=True)
    for n, point in enumerate(points):
        line.update(HTML(_progress_line(n, len(points), began, point.label)))
        yield point
    spent = time.monotonic() - began
    line.update(HTML(f"{len(points)} points measured in {spent:.0f} s"))


def _progress_line(n: int, total: int, began: float, label: str) -> str:
    spent = time.monotonic() - began
    left = f", about {spent / n * (total - n):.0f} s left" if n else ""
    bar = f'<progress value="{n}" max="{total}"></progress>'
    return f"{bar} {n} of {total}{left}: {html.escape(label)}"
