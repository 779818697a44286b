"""Requests through a server, step by step: what each of them waits for."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any, NamedTuple

import numpy as np

from fastlab.serving.steps import GRAIN, Server, Steps
from fastlab.spec.scenarios import Scenario
from fastlab.spec.shape import ModelShape


class Requests(NamedTuple):
    """When they come (s; all the same for users), tokens to read and to write."""

    at: list[float]
    prompts: list[int]
    answers: list[int]
    users: int = 0


def draw(one: Scenario, shape: ModelShape, n: int, seed: int) -> Requests:
    """n requests of a scenario, clipped to the model's positions.

    Times between them are drawn from a gamma distribution of the CV, and stretched to
    the rate over the whole run, so that seeds differ in bursts alone.
    """
    rng = np.random.default_rng(seed)
    lengths = zip(one.prompt.sample(rng, n), one.answer.sample(rng, n), strict=True)
    prompts, answers = zip(*(one.clip(p, a, shape) for p, a in lengths), strict=True)
    rate, cv, users = one.arrivals.rate, one.arrivals.cv, one.arrivals.users
    if rate is None:
        return Requests([0.0] * n, [*prompts], [*answers], users or 1)
    gaps = rng.gamma(1 / cv**2, size=n) if cv else np.ones(n)
    at = np.cumsum(gaps) * (n / rate / gaps.sum())
    return Requests(at.tolist(), [*prompts], [*answers])


class Trace(NamedTuple):
    """Of each request, [n] in seconds: its arrival, its times, and what they went to.

    queue: until it was let in; memory: of that, while slots were free and cache memory
    was not; held_up: while its answer was written, for prompts of others. gaps: between
    tokens, how often each. busy_s: of the server.
    """

    at: np.ndarray
    ttft_s: np.ndarray
    tpot_s: np.ndarray  # nan for answers of one token
    e2e_s: np.ndarray
    queue: np.ndarray
    memory: np.ndarray
    held_up: np.ndarray
    gaps: tuple[np.ndarray, np.ndarray]
    busy_s: float

    def after(self, n: int) -> Trace:
        """Without the first n requests, and as large a share of the gaps."""
        cut = len(self.gaps[0]) * n // len(self.at)
        gaps = self.gaps[0][cut:], self.gaps[1][cut:]
        columns: Any = [*(column[n:] for column in self[:7]), gaps, self.busy_s]
        return Trace(*columns)

    @property
    def per_second(self) -> float:
        """Requests answered a second."""
        return len(self.at) / float((self.at + self.e2e_s).max() - self.at.min())

    def percentile(self, name: str, q: float) -> float:
        """Of "ttft_s", "tpot_s", "e2e_s", or "itl_s": every gap; nan of none."""
        if name != "itl_s":
            own = getattr(self, name)
            own = own[~np.isnan(own)]
            return float(np.percentile(own, q)) if len(own) else float("nan")
        seconds, times = self.gaps
        order = np.argsort(seconds)
        share = np.cumsum(times[order]) / times.sum()
        at = min(int(np.searchsorted(share, q / 100)), len(order) - 1)
        return float(seconds[order][at])

    def parts(self, bounds: tuple[str, str]) -> dict[str, np.ndarray]:
        """What a request's time went to, by name: [n] seconds; bounds: as of Steps."""
        read, write = (f" ({bound})" * bool(bound) for bound in bounds)
        return {
            "queueing": self.queue - self.memory,
            "cache memory": self.memory,
            f"prefill{read}": self.ttft_s - self.queue,
            f"decode{write}": self.e2e_s - self.ttft_s - self.held_up,
            "prefill of others": self.held_up,
        }


def serve(
    requests: Requests, steps: Steps, server: Server, room: float = float("inf")
) -> Trace:
    """Serve all in the order of their arrival; room: tokens of cache memory."""
    line = _Line(requests, steps, server, room)
    while line.done < len(line.at):
        line.enter()
        if line.reading or line.ends:
            line.step()
        else:
            line.now = line.at[line.came]
    return line.trace()


class _Line:
    """Requests before, in and behind a server, between two of its steps."""

    def __init__(
        self, requests: Requests, steps: Steps, server: Server, room: float
    ) -> None:
        self.at, self.prompts, self.answers, self.users = requests
        n = len(self.at)
        if self.users:
            self.at = [0.0] * min(n, self.users) + [float("inf")] * (n - self.users)
        both = zip(self.prompts, self.answers, strict=True)
        self.needs = [prompt + max(answer - 1, 0) for prompt, answer in both]
        if (most := max(self.needs)) > room:
            raise ValueError(f"room={room:g} must hold the longest request: {most}")
        self.steps, self.server, self.room = steps, server, room
        # Of each request; memory and held_up are what the sums below were when it came.
        self.let_in, self.first, self.last, self.memory, self.held_up = np.zeros((5, n))
        self.reading: deque[list[int]] = deque()  # [request, tokens read]
        self.ends: list[tuple[int, int]] = []  # (step that writes its last, request)
        self.gaps: list[tuple[float, int]] = []
        self.now = self.busy = self.no_room = self.for_others = 0.0
        self.count = self.came = self.entered = self.done = self.held = self.rows = 0
        self.full = False

    def enter(self) -> None:
        """Let in who came, while there are slots and room."""
        while self.came < len(self.at) and self.at[self.came] <= self.now:
            self.memory[self.came] = self.no_room
            self.came += 1
        self.full = False
        inside = len(self.reading) + len(self.ends)
        for i in range(
            self.entered, min(self.came, self.entered + self.server.slots - inside)
        ):
            self.full = self.held + self.needs[i] > self.room
            if self.full:
                break
            self.held += self.needs[i]
            self.let_in[i], self.entered = self.now, i + 1
            self.memory[i] = self.no_room - self.memory[i]
            self.reading.append([i, 0])

    def step(self) -> None:
        """Chunks are read, a token of each is written; several steps that are alike."""
        chunks, batch = self.cut(), len(self.ends)
        many = 1 if chunks else self.alike(batch)
        rows = self.rows + batch * (many - 1) / 2
        steps = self.steps
        took = (
            steps.seconds(chunks, batch, rows) if chunks else steps.writing(batch, rows)
        )
        self.now, self.busy = self.now + many * took, self.busy + many * took
        self.no_room += many * took * self.full
        self.count += many
        if batch:
            self.gaps.append((took, many * batch))
            if chunks:
                self.for_others += took - self.steps.writing(batch, self.rows)
            self.rows += many * batch
        while self.ends and self.ends[0][0] == self.count:
            i = heapq.heappop(self.ends)[1]
            self.rows -= self.needs[i]
            self.held_up[i] = self.for_others - self.held_up[i]
            self.leave(i)
        while self.reading and self.reading[0][1] == self.prompts[self.reading[0][0]]:
            i, read = self.reading.popleft()
            self.first[i] = self.now
            if self.answers[i] > 1:
                heapq.heappush(self.ends, (self.count + self.answers[i] - 1, i))
                self.rows, self.held_up[i] = self.rows + read, self.for_others
            else:
                self.leave(i)

    def alike(self, batch: int) -> int:
        """Steps up to the next arrival or end, no more than GRAIN, all of one batch."""
        many = min(self.ends[0][0] - self.count, GRAIN)
        if self.came < len(self.at):
            longest = self.steps.writing(batch, self.rows + batch * many)
            left = (self.at[self.came] - self.now) / max(longest, 1e-12)
            many = max(1, int(min(left, many)))
        return many

    def cut(self) -> list[tuple[int, int]]:
        """The chunks (new, past) that are read in a step, the first come first."""
        chunks: list[tuple[int, int]] = []
        left, whole = self.server.chunk, self.steps.whole
        for one in self.reading:
            new = self.prompts[one[0]] - one[1]
            if left <= 0 or (whole and chunks and new > left):
                break
            new = new if whole else min(new, left)
            chunks.append((new, one[1]))
            one[1], left = one[1] + new, left - new
        return chunks

    def leave(self, i: int) -> None:
        """A request is answered; its user asks again."""
        self.last[i], self.held = self.now, self.held - self.needs[i]
        self.done += 1
        if self.users and self.users + self.done <= len(self.at):
            self.at[self.users + self.done - 1] = self.now

    def trace(self) -> Trace:
        """What came of all of them."""
        at, gaps = np.array(self.at), np.array(self.gaps or [(np.nan, 1)])
        later = np.array(self.answers, float) - 1
        tpot = (self.last - self.first) / np.where(later > 0, later, np.nan)
        times = self.first - at, tpot, self.last - at, self.let_in - at
        spent = self.memory, self.held_up, (gaps[:, 0], gaps[:, 1])
        return Trace(at, *times, *spent, self.busy)


class Capacity(NamedTuple):
    """Requests a second that a server can answer at most, and what bounds it."""

    rate: float
    bound: str


def capacity(
    requests: Requests, steps: Steps, server: Server, room: float = float("inf")
) -> Capacity:
    """Of requests with such lengths, each slot taken: in closed form, not served."""
    prompts, later = np.array(requests.prompts), np.array(requests.answers) - 1
    later = later.clip(0)
    need = prompts + later  # half of the next one's room is empty while that one waits
    fit = max(1, int(min(server.slots, (room - need.mean() / 2) / need.mean())))
    chunk = max(prompts) if steps.whole else server.chunk
    cuts = [[(min(chunk, p - at), at) for at in range(0, p, chunk)] for p in prompts]
    read = float(np.mean([sum(steps.chunk(*one) for one in cut) for cut in cuts]))
    write, passes = 0.0, np.mean(prompts) / server.chunk
    if later.any():
        rows = float(((prompts + later / 2) * later).sum() / later.sum())
        each, best = min((steps.writing(b, rows * b) / b, b) for b in range(1, fit + 1))
        write = each * later.mean()
        passes = max(passes, later.mean() / best)
    else:
        best = fit
    seconds = read + write
    if steps.fused and best > 1:  # what passes of their own would have taken besides
        own = np.mean([len(cut) for cut in cuts]) + later.mean() / best
        seconds -= steps.read[0] * max(0.0, float(own - passes))
    writes = "cache memory" if fit < server.slots else "decode"
    return Capacity(1 / seconds, writes if write > read else "prefill")
