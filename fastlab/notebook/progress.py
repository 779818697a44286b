"""Progress that fits the place: a tqdm bar in a terminal, one line in a notebook."""

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


def line() -> NotebookLine | TerminalLine:
    """A new line, for a notebook or for a terminal."""
    return NotebookLine() if in_notebook() else TerminalLine()


def status(what: str) -> AbstractContextManager[StepDone]:
    """Says what is going on in the `with` block, and at its end how long it took.

    Nothing is written in between, by no thread either: what is timed stays undisturbed.
    """
    return line().steps(0, what)


def steps(total: int, what: str) -> AbstractContextManager[StepDone]:
    """A function to call after each of so many steps, with a word or a row of numbers.

    The line says how many are done, the time left, and the last one's word.
    """
    return line().steps(total, what)


def in_notebook() -> bool:
    """Whether a kernel with outputs runs this."""
    shell = sys.modules.get("IPython")
    return shell is not None and "IPKernelApp" in str(
        getattr(shell.get_ipython(), "config", "")
    )


def _words(said: object) -> str:
    if not isinstance(said, Mapping):
        return str(said)
    return ", ".join(f"{name} {value:.3g}" for name, value in said.items())


class NotebookLine:
    """One HTML output of the cell, which a saved notebook keeps as it was last."""

    def __init__(self) -> None:
        self._output: Any = None

    def write(self, markup: str) -> None:
        """Show this HTML in place of what stood there."""
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
    def steps(self, total: int, what: str) -> Iterator[StepDone]:
        """How many steps are done, the time left, and the last one's word.

        Of no steps an animated bar without a number, which the browser moves by itself.
        """
        began, n, ended = time.monotonic(), 0, "stopped after "
        last = began - PAUSE_S
        self.write(_bar(0, total, began, what))

        def done(said: object) -> None:
            nonlocal n, last
            n += 1
            if time.monotonic() - last >= PAUSE_S:
                self.write(_bar(n, total, began, f"{what}: {_words(said)}"))
                last = time.monotonic()

        try:
            yield done
            ended = ""
        finally:
            count = f"{n} steps in " if n else ""
            spent = f"{time.monotonic() - began:.1f} s"
            self.write(f"{html.escape(what)}: {ended}{count}{spent}")


def _bar(n: int, total: int, began: float, label: str) -> str:
    if not total:
        return f"<progress></progress> {html.escape(label)}"
    spent = time.monotonic() - began
    left = f", about {spent / n * (total - n):.0f} s left" if n else ""
    bar = f'<progress value="{n}" max="{total}"></progress>'
    return f"{bar} {n} of {total}{left}: {html.escape(label)}"


class TerminalLine:
    """tqdm on stderr, silent where that is no terminal."""

    def points(self, points: Sequence[Point]) -> Iterable[Point]:
        """The points under a bar with the time left."""
        from fastlab.sweeps.run import terminal_progress

        return terminal_progress(points)

    @contextmanager
    def steps(self, total: int, what: str) -> Iterator[StepDone]:
        """A bar with the time left and the last step's word; of no steps the words
        alone. Gone when it is over.
        """
        from tqdm import tqdm

        form = None if total else "{desc} ..."
        look: dict[str, Any] = {"bar_format": form, "leave": False, "disable": None}
        with tqdm(total=total, desc=what, **look) as bar:

            def done(said: object) -> None:
                bar.set_postfix_str(_words(said), refresh=False)
                bar.update()

            yield done
