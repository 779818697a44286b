"""A worker: a process that answers what a planner asks of the bench it has made.

    python -m fastlab.sweeps.worker

Pickles come by stdin and answers go by stdout; a dead planner is the end of stdin.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fastlab.record import Record


def main() -> None:
    """Make a bench as the first question says, then call the methods that follow."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a library prints is no answer
    bench: Any = None
    with suppress(EOFError, BrokenPipeError):  # the planner is gone
        while True:
            what, *args = pickle.load(questions)
            try:
                if bench is None:
                    sys.argv, bench = args[0], what(*args[1:])
                    found: Any = bench.name, bench.settings, bench.profile
                else:
                    found = getattr(bench, what)(*args)
                if isinstance(found, Record) and found.measured:
                    found = replace(found, measured=found.measured.trimmed())
                pickle.dump((True, found), answers)
            except Exception as error:
                pickle.dump((False, _words(error)), answers)
            answers.flush()


def _words(error: Exception) -> tuple[type | None, str]:
    """What an error said, and of which kind it is if that is told in one line."""
    kind = next((k for k in (ValueError, OSError) if isinstance(error, k)), None)
    if kind is None:
        traceback.print_exc()
    try:
        return kind, f"{error}" if kind else f"{type(error).__name__}: {error}"
    except Exception:
        return None, type(error).__name__


if __name__ == "__main__":
    main()
