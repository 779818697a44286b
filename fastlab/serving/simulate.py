"""Requests through a server, step by step: what each of them waits for."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any, NamedTuple

import numpy as np

from fastlab.serving.steps import Server, Steps
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
    n, users = len(requests.at), requests.users
    at = requests.at if not users else [0.0] * users + [float("inf")] * (n - users)
    at, prompts, answers = at[:n], requests.prompts, requests.answers
    needs = [p + max(a - 1, 0) for p, a in zip(prompts, answers, strict=True)]
    if max(needs) > room:
        raise ValueError(f"room={room:g} must hold the longest request: {max(needs)}")
    let_in, first, last = [0.0] * n, [0.0] * n, [0.0] * n
    blocked, others = [0.0] * n, [0.0] * n  # counters when a request came, then spent
    reading: deque[list[int]] = deque()  # [request, tokens read]
    ends: list[tuple[int, int]] = []  # (step that writes its last token, request)
    now = no_room = prompts_s = held = 0.0
    step = came = entered = rows = done = 0
    gaps: list[tuple[float, int]] = []
    busy = 0.0
    while done < n:
        while came < n and at[came] <= now:
            blocked[came] = no_room
            came += 1
        full = False
        while entered < came and len(reading) + len(ends) < server.slots:
            if full := held + needs[entered] > room:
                break
            held += needs[entered]
            let_in[entered] = now
            blocked[entered] = no_room - blocked[entered]
            reading.append([entered, 0])
            entered += 1
        if not reading and not ends:
            now = at[came]
            continue
        left = server.chunk
        chunks: list[tuple[int, int]] = []
        for one in reading:
            new = prompts[one[0]] - one[1]
            if steps.whole and chunks and new > left:
                break
            new = new if steps.whole else min(new, left)
            chunks.append((new, one[1]))
            one[1], left = one[1] + new, left - new
            if left <= 0:
                break
        batch = len(ends)
        took = steps.seconds(chunks, batch, rows)
        now, step, busy = now + took, step + 1, busy + took
        if batch:
            gaps.append((took, batch))
            prompts_s += took - steps.writing(batch, rows) if chunks else 0.0
            rows += batch
        no_room += took * full
        left_now = []
        while ends and ends[0][0] == step:
            left_now.append(i := heapq.heappop(ends)[1])
            rows -= needs[i]
            others[i] = prompts_s - others[i]
        while reading and reading[0][1] == prompts[reading[0][0]]:
            i = reading.popleft()[0]
            first[i], others[i] = now, prompts_s
            if answers[i] > 1:
                heapq.heappush(ends, (step + answers[i] - 1, i))
                rows += prompts[i]
            else:
                others[i] = 0.0
                left_now.append(i)
        for i in left_now:
            last[i], held, done = now, held - needs[i], done + 1
            if users and users + done <= n:
                at[users + done - 1] = now
    return _trace(at, let_in, first, last, blocked, others, answers, gaps, busy)


def _trace(
    at: Any, let_in: Any, first: Any, last: Any, memory: Any, others: Any, *rest: Any
) -> Trace:
    answers, gaps, busy = rest
    came, start, end = np.array(at), np.array(first), np.array(last)
    later = np.array(answers, float) - 1
    tpot = np.divide(
        end - start, later, out=np.full(len(came), np.nan), where=later > 0
    )
    times = start - came, tpot, end - came, np.array(let_in) - came
    between = np.array(gaps or [(np.nan, 1)])
    found = between[:, 0], between[:, 1]
    return Trace(came, *times, np.array(memory), np.array(others), found, busy)


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
