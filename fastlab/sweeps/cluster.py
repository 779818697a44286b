"""A sweep over a Ray cluster: workers on its nodes, one for each GPU.

The process that sweeps is the only writer of the store and counts the attempts: Ray
starts nothing twice, and what a lost node may still answer is not heard.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from fastlab.record import Record
from fastlab.spec.checks import digest
from fastlab.spec.point import Point
from fastlab.sweeps.isolation import READY_S, OutOfTime, WorkerFailed, Workers
from fastlab.sweeps.plan import Target
from fastlab.words import one_line

QUIET = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
# What Ray did once more might be measured twice; its CPUs are not to be waited for.
ONCE = {"max_restarts": 0, "max_task_retries": 0, "num_cpus": 0}
THREADS = "OMP_NUM_THREADS"  # Ray sets it to 1


class Node:
    """What an actor does: it keeps workers, in the folder of the sweep."""

    def __init__(self, folder: str, threads: str | None, left_s: float) -> None:
        os.chdir(folder)
        os.environ.pop(THREADS, None)
        os.environ |= {THREADS: threads} if threads else {}
        self._deadline = time.monotonic() + left_s

    def start(
        self, first: tuple[Any, ...], fresh: bool, timeout_s: float | None
    ) -> tuple[Target, Mapping[str, Any]]:
        """Make the first worker: what it is, and its environment."""
        own = self._workers = Workers(first, fresh, timeout_s, self._deadline)
        own.start()
        return Target(own.name, own.settings, own.profile), own.environment()

    def measure(self, point: Point) -> Record:
        """The record of one point; see Workers."""
        return self._workers.measure(point)


@dataclass(eq=False)
class Hired:
    """An actor: its host, the environment of its rows, the model that it has built."""

    actor: Any
    host: str
    env: Mapping[str, Any] = field(default_factory=dict)
    model: Any = None


class Cluster(Target):
    """Workers on the nodes of a Ray cluster, as `bench_in` makes them.

    One for each GPU, if there are any and gpus is True, else one for each node, all of
    one device. The sweep's folder and fastlab are found at the same place on each.
    """

    def __init__(
        self,
        first: tuple[Any, ...],
        fresh: bool = False,
        timeout_s: float | None = None,
        deadline: float = inf,
        gpus: bool = True,
    ) -> None:
        self._first, self._deadline = (first, fresh, timeout_s), deadline
        self._gpus, self._began = gpus, False
        self.hired: list[Hired] = []

    def start(self) -> None:
        """Join the cluster of RAY_ADDRESS, or of this machine, or make one of it alone.

        Raises WorkerFailed where a node has no worker or another device than the rest,
        and what their bench does.
        """
        import ray

        if not ray.is_initialized():
            handler = signal.getsignal(signal.SIGTERM)
            ray.init(**QUIET)
            signal.signal(signal.SIGTERM, handler)
            self._began = True
        self.hired = list(self._actors())
        ready = [one.actor.start.remote(*self._first) for one in self.hired]
        try:
            found = ray.get(ready, timeout=READY_S)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, ValueError | OSError | WorkerFailed):
                raise cause from None
            raise WorkerFailed(f"a node has no worker: {_why(error)}") from None
        names = sorted({target.name for target, _ in found})
        if len(names) != 1:
            raise WorkerFailed(f"the nodes must have one device: {', '.join(names)}")
        vars(self).update(vars(found[0][0]), count=len(found))
        for one, (_, env) in zip(self.hired, found, strict=True):
            one.env = dict(env)

    def _actors(self) -> Iterator[Hired]:
        """A new one for each GPU or node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"]]
        gpus = [int(node["Resources"].get("GPU", 0)) * self._gpus for node in nodes]
        how = {**ONCE, "num_gpus": int(any(gpus))}
        threads, left_s = os.environ.get(THREADS), self._deadline - time.monotonic()
        for node, count in zip(nodes, gpus, strict=True):
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            for _ in range(count if any(gpus) else 1):
                made = ray.remote(Node).options(**how, scheduling_strategy=place)
                actor = made.remote(os.getcwd(), threads, left_s)
                yield Hired(actor, node["NodeManagerHostname"])

    def environments(self) -> list[Mapping[str, Any]]:
        """Those of the rows."""
        return [*{digest(dict(one.env)): one.env for one in self.hired}.values()]

    def each(
        self,
        points: Sequence[Point],
        progress: Callable[[Sequence[Point]], Any],
        begin: Callable[[Point], None],
    ) -> Iterator[tuple[Point, Record]]:
        """The record of each point as it comes; begin is called with it before.

        What a node that is lost had in hand is a crash. Raises WorkerFailed where none
        is left, and OutOfTime once what is in hand has ended.
        """
        import ray

        waiting: dict[Any, list[Point]] = {}
        for point in reversed(points):
            waiting.setdefault(point.model_key, []).append(point)
        shown, late, n = [*points], False, 0
        bar = iter(progress(shown))
        hand: dict[Any, tuple[Hired, Point]] = {}
        while waiting or hand:
            try:
                busy = [one for one, _ in hand.values()]
                for one in self.hired:
                    if waiting and one not in busy:
                        begin(point := self._next(waiting, one))
                        hand[one.actor.measure.remote(point)] = one, point
                        shown[n], n = point, n + 1  # what the bar comes to next
                        next(bar)
                if not hand:
                    raise WorkerFailed("no node of the cluster is left")
                [ready], _ = ray.wait([*hand])
                one, point = hand.pop(ready)
                record = self._record(ready, one, point)
            except OutOfTime:
                late, waiting = True, {}
            else:
                yield point, record
        if late:
            raise OutOfTime
        next(bar, None)

    def _next(self, waiting: dict[Any, list[Point]], one: Hired) -> Point:
        """A point of the model that a worker has, else of one that no other has."""
        others = {other.model for other in self.hired if other is not one}

        def cost(model: Any) -> tuple[bool, bool, int]:
            return model != one.model, model in others, -len(waiting[model])

        one.model = min(waiting, key=cost)
        point = waiting[one.model].pop()
        if not waiting[one.model]:
            del waiting[one.model]
        return point

    def _record(self, ready: Any, one: Hired, point: Point) -> Record:
        import ray

        try:
            record: Record = ray.get(ready)
            return replace(record, env=digest(dict(one.env)))
        except OutOfTime:
            raise
        except ray.exceptions.RayError as error:
            self.hired.remove(one)
            _end(one)
            return self.lost(point, "crash", f"{one.host} is lost: {_why(error)}")

    def end(self) -> None:
        """Let the workers go, and a cluster of this machine alone."""
        import ray

        for one in self.hired:
            _end(one)
        if self._began:
            ray.shutdown()


def _end(one: Hired) -> None:
    import ray

    with suppress(ray.exceptions.RayError, ValueError):  # it is gone
        ray.kill(one.actor)


def _why(error: Any) -> str:
    """The last line of what Ray says."""
    text = str(getattr(error, "cause", None) or error)
    return one_line(text.strip().rpartition("\n")[2], 300)
