"""Progress in a notebook: one line of a cell's output. Elsewhere nothing is shown."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from fastlab.spec.point import Point

StepDone = Callable[[object], None]
PAUSE_S = 0.1  # between two pictures of a line


def in_notebook() -> bool:
    """Whether a kernel with outputs runs this."""
    shell = sys.modules.get("IPython")
    return shell is not None and "IPKernelApp" in str(
        getattr(shell.get_ipython(), "config", "")
    )


class NotebookLine:
    """One HTML output of the cell, which a saved notebook keeps as it was last."""

    def __init__(self) -> None:
        self._output: Any = None

    def write(self, markup: str) -> None:
        """Show this HTML in place of what stood there; nothing outside a notebook."""
        if not in_notebook():
            return
        from IPython.display import HTML, display

        content = HTML(f'<span class="fastlab-progress">{markup}</span>')
        if self._output is None:
            self._output = display(content, display_id=True)
        else:
            self._output.update(content)

    def points(self, points: Sequence[Point]) -> Iterable[Point]:
        """The points, with how many are done, the time left and the one at work."""
        began = time.monotonic()
        for n, point in enumerate(points):
            self.write(_bar(n, len(points), began, point.label))
            yield point
        done = f"{len(points)} points measured in {time.monotonic() - began:.0f} s"
        self.write(done if points else "all points were measured before")


@contextmanager
def steps(
    total: int, what: str, line: NotebookLine | None = None
) -> Iterator[StepDone]:
    """A function to call after each of so many steps, with a word or a row of numbers.

    The line, or a new one, says how many are done, the time left, and the last one's
    word.
    """
    line = line or NotebookLine()
    began, n, ended = time.monotonic(), 0, "stopped after "
    last = began - PAUSE_S
    line.write(_bar(0, total, began, what))

    def done(said: object) -> None:
        nonlocal n, last
        n += 1
        if time.monotonic() - last >= PAUSE_S:
            if isinstance(said, Mapping):
                said = ", ".join(f"{name} {value:.3g}" for name, value in said.items())
            line.write(_bar(n, total, began, f"{what}: {said}"))
            last = time.monotonic()

    try:
        yield done
        ended = ""
    finally:
        spent = f"{n} steps in " * bool(n) + f"{time.monotonic() - began:.1f} s"
        line.write(f"{html.escape(what)}: {ended}{spent}")


def status(what: str) -> AbstractContextManager[StepDone]:
    """Says what is going on in the `with` block, and at its end how long it took.

    Nothing is written in between, by no thread either: what is timed stays undisturbed.
    """
    return steps(0, what)


def _bar(n: int, total: int, began: float, label: str) -> str:
    """Of no steps an animated bar without a number, which the browser moves itself."""
    if not total:
        return f"<progress></progress> {html.escape(label)}"
    spent = time.monotonic() - began
    left = f", about {spent / n * (total - n):.0f} s left" if n else ""
    bar = f'<progress value="{n}" max="{total}"></progress>'
    return f"{bar} {n} of {total}{left}: {html.escape(label)}"
