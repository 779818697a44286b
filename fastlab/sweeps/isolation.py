"""Workers: measuring in a process of its own, which may hang, crash or be killed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

from fastlab.record import Record
from fastlab.spec.checks import check_choice
from fastlab.spec.point import Point
from fastlab.sweeps.plan import Target

if TYPE_CHECKING:
    from fastlab.clock.measure import Bench

ISOLATIONS = ("worker", "process", "inline")
READY_S = 600.0  # for imports and a calibration
LEAVE_S, GONE_S = 1.0, 10.0  # to end by itself, or killed
LEAST_S, TIMES = 30.0, 20.0  # a time-out: at least, or so often the expected time
FIRST_S = 60.0  # more for a worker's first point, which imports the model's code
IN_TIME = 2.0  # beyond the deadline a point may go on for its expected time so often
GROWTH = 2**31  # bytes that a worker may grow, besides twice what its point needs
COMMAND = (sys.executable, "-P", "-m", "fastlab.sweeps.worker")
# In the worker's group: once the planner is gone, so are the worker and its children.
GUARD = ("sh", "-c", "read -r _; kill -9 0")
POSIX = os.name == "posix"


class WorkerFailed(RuntimeError):
    """A worker could not do what it was asked to; the message says why."""


class OutOfTime(Exception):
    """The deadline came while a point was in hand; its attempt was dropped."""


@contextmanager
def bench_in(
    isolation: str, make: Callable[..., Bench], *args: Any, kind: Any = None, **how: Any
) -> Iterator[Any]:
    """What `make(*args)` gives, in this process ("inline") or in workers.

    make: a function of a module, with arguments that can be pickled. kind: of workers,
    `Workers` or `Cluster`. how: as it takes.
    Raises ValueError for another isolation, and what `make` raises.
    """
    check_choice("isolation", isolation, ISOLATIONS)
    if isolation == "inline":
        yield make(*args)
        return
    workers = (kind or Workers)((make, sys.argv, *args), isolation == "process", **how)
    try:
        workers.start()
        yield workers
    finally:
        workers.end()


class Workers(Target):
    """One worker after the other; a new one wherever the last is not to be trusted.

    It is replaced after a time-out, a crash, a CUDA error other than out-of-memory,
    and where it grew; fresh: after each point. timeout_s: of a point, by default 20
    times what is expected. deadline (time.monotonic()): when to drop what is in hand.
    """

    def __init__(
        self,
        first: tuple[Any, ...],
        fresh: bool = False,
        timeout_s: float | None = None,
        deadline: float = inf,
        growth: int = GROWTH,
    ) -> None:
        self._first, self._fresh, self._growth = first, fresh, growth
        self._timeout_s, self._deadline = timeout_s, deadline
        self._process: subprocess.Popen[bytes] | None = None
        self.name, self._first_s = "", FIRST_S

    def environment(self) -> Any:
        """The worker's; see Bench."""
        return self._ask_first("environment")

    def measure(self, point: Point) -> Record:
        """The record of one point, whatever becomes of the worker.

        Raises OutOfTime, and WorkerFailed where no new worker can be made.
        """
        if self._process is None or self._process.poll() is not None:
            self.end()  # if it died, then between two points: none is to blame
            self.start()
        expected_s = self.expected_s(point)
        usual_s = inf if point.recipe.distill_steps else TIMES * expected_s
        limit_s = self._timeout_s or max(LEAST_S, usual_s) + self._first_s
        self._first_s = 0.0
        left_s = max(self._deadline - time.monotonic(), IN_TIME * expected_s)
        try:
            record: Record = self._ask(min(limit_s, left_s), "measure", point)
        except Empty:
            self.end()
            if left_s < limit_s:
                raise OutOfTime(point.label) from None
            return self.lost(point, "timeout", f"no row within {limit_s:g} s; killed")
        except EOFError:
            return self.lost(point, "crash", f"the worker died: {self.end()}")
        except (ValueError, OSError, WorkerFailed) as error:
            self.end()
            return self.lost(point, "error", str(error)[:500])
        need = 2 * record.estimate.peak_bytes if record.estimate else 0
        grown = self._rss() > self._rss_at_first + self._growth + need
        sick = record.status == "error" and "CUDA" in record.reason
        if self._fresh or grown or sick:
            self.end()
        return record

    def start(self) -> None:
        """Make a worker, and wait until it is ready; raises what its bench does."""
        how: dict[str, Any] = {"process_group": 0} if POSIX else {}
        how |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        env = os.environ | {"PYTHONPATH": path}
        process = self._process = subprocess.Popen(COMMAND, env=env, **how)
        if POSIX:
            how = {"stdin": subprocess.PIPE, "process_group": process.pid}
            self._guard = subprocess.Popen(GUARD, **how)
        self._answers: SimpleQueue[Any] = SimpleQueue()
        heard = process.stdout, self._answers
        Thread(target=_hear, args=heard, daemon=True).start()
        before = self.name
        self.name, self.settings, self.profile = self._ask_first(*self._first)
        if before not in ("", self.name):
            raise WorkerFailed(f"{before} is gone; there is {self.name}")
        self._rss_at_first, self._first_s = self._rss(), FIRST_S

    def end(self) -> str:
        """Kill the worker, if any, and its children; returns how it ended by itself."""
        process, self._process = self._process, None
        if process is None:
            return ""
        assert process.stdin
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE_S)
        code = process.poll()
        if POSIX:
            os.killpg(process.pid, signal.SIGKILL)
            self._guard.wait()
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # where a driver does not let it go
            process.wait(GONE_S)
        if code is None:
            return "it hung"
        return f"exit status {code}" if code >= 0 else signal.Signals(-code).name

    def _ask_first(self, *question: Any) -> Any:
        try:
            return self._ask(READY_S, *question)
        except (Empty, EOFError):
            raise WorkerFailed(f"no worker could be started: {self.end()}") from None

    def _ask(self, within_s: float, *question: Any) -> Any:
        """The answer; Empty after so many seconds, EOFError where the worker died."""
        assert self._process and self._process.stdin
        with suppress(BrokenPipeError):  # its answer is that it is dead
            os.write(self._process.stdin.fileno(), pickle.dumps(question))
        answer = self._answers.get(timeout=None if within_s == inf else within_s)
        if answer is None:
            raise EOFError
        good, found = answer
        if not good:
            kind, words = found
            raise (kind or WorkerFailed)(words)
        return found

    def _rss(self) -> int:
        """Bytes that the worker holds in memory; 0 where the system does not say."""
        assert self._process
        with suppress(OSError, IndexError):
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
            return int(pages) * os.sysconf("SC_PAGE_SIZE")
        return 0


def _hear(stdout: IO[bytes], answers: SimpleQueue[Any]) -> None:
    with suppress(Exception):  # a worker may end in the middle of an answer
        while True:
            answers.put(pickle.load(stdout))
    answers.put(None)
