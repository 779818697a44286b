"""The serving simulation beside a really computed loop, and transformers' own.

    python -m benchmarks.serving [--requests 150] [--loads 0.3 0.5 0.8] [--theirs]

A small model answers requests that arrive on a virtual clock, several at a time: each
step is computed and timed, and the clock moves on by what it took. The same requests go
through the simulation, whose steps are timed alone beforehand and afterwards ("loop"),
or are rows as fastlab measures them ("rows"), or its estimates. All in one thread, by
its own time, so that other programs matter less. Printed: what it says over what was
computed, for each load and percentile. --theirs: generate_batch of
transformers on requests that are all there at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

import fastlab as fl
from fastlab.clock.clocks import CpuClock
from fastlab.serving.simulate import Requests, Trace, capacity, draw, serve
from fastlab.serving.steps import Server, Steps, Timed, steps_of
from fastlab.spec import Point, point_of
from fastlab.spec.scenarios import Arrivals, Lengths, Scenario, Targets

SERVER = Server(slots=8, chunk=128, fused=False)
LENGTHS = Lengths(low=16, high=256), Lengths(low=4, high=40)
CLOCK = time.thread_time  # of this thread: the wall's has other programs in it
REPEATS = 5  # of a step that is timed alone
SHOWN = (50, 90, 99)


class OwnTime(CpuClock):
    """The clock of fastlab's rows, by this thread's time."""

    now_ns = mark = staticmethod(time.thread_time_ns)


class SlotLayer(CacheLayerMixin):
    """Keys and values of all slots; a call reads and writes those of `slots` alone."""

    def __init__(self, shape: Any, length: int, place: dict[str, Any]) -> None:
        super().__init__()
        size = SERVER.slots, shape.kv_heads, length, shape.head_dim
        self.keys, self.values = torch.zeros(size), torch.zeros(size)
        self.place, self.is_initialized = place, True

    def update(self, keys: Any, values: Any, *_: Any, **__: Any) -> Any:
        slots, at, end = (self.place[n] for n in ("slots", "at", "end"))
        for own, new in ((self.keys, keys), (self.values, values)):
            own[slots[:, None], :, at] = new.transpose(1, 2)
        return self.keys[slots, :, :end], self.values[slots, :, :end]

    def lazy_initialization(self, *_: Any) -> None: ...
    def get_mask_sizes(self, *_: Any) -> tuple[int, int]:
        return self.place["end"], 0

    def get_seq_length(self, *_: Any) -> int:
        return self.place["end"] - self.place["at"].shape[1]

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class Loop:
    """The model, and one pass for some of the slots."""

    def __init__(self, point: Point, length: int) -> None:
        self.model: Any = fl.build(point, "cpu")
        self.place: dict[str, Any] = {}
        shape = point.built_shape
        layers = [SlotLayer(shape, length, self.place) for _ in range(shape.layers)]
        self.cache = Cache(layers=layers)

    @torch.inference_mode()
    def run(self, slots: Sequence[int], ids: torch.Tensor, pasts: Sequence[int]) -> Any:
        """Read ids (slots, new) after so many positions of each; the next tokens."""
        at = torch.tensor(pasts)[:, None] + torch.arange(ids.shape[1])
        end = max(pasts) + ids.shape[1]
        self.place.update(slots=torch.tensor(slots), at=at, end=end)
        mask = (torch.arange(end) <= at[..., None])[:, None]
        out = self.model(
            input_ids=ids,
            position_ids=at,
            attention_mask=mask,
            past_key_values=self.cache,
            logits_to_keep=1,
        )
        return out.logits[:, -1].argmax(-1)

    def timed(self, points: Sequence[Point]) -> list[float]:
        """Median seconds of single steps, in turns."""
        seconds: list[list[float]] = [[] for _ in points]
        for _ in range(REPEATS):
            for own, point in zip(seconds, points, strict=True):
                work = point.workload
                slots = list(range(work.batch))
                writes = work.phase == "decode"
                ids = torch.zeros(work.batch, 1 if writes else work.prompt_len).long()
                pasts = [work.prompt_len if writes else 0] * work.batch
                began = CLOCK()
                self.run(slots, ids, pasts)
                own.append(CLOCK() - began)
        return [float(np.median(own)) for own in seconds]


def computed(requests: Requests, loop: Loop, vocab: int) -> Trace:
    """What the requests wait for in a loop that computes each step."""
    rng = np.random.default_rng(1)
    n, now, busy = len(requests.at), 0.0, 0.0
    texts = [torch.tensor(rng.integers(0, vocab, (1, p))) for p in requests.prompts]
    free, queue, active = list(range(SERVER.slots)), list(range(n)), {}
    first, last, let_in = np.zeros(n), np.zeros(n), np.zeros(n)
    steps = []
    while queue or active:
        while queue and free and requests.at[queue[0]] <= now:
            i = queue.pop(0)
            active[i] = {"slot": free.pop(), "read": 0, "written": 0}
            let_in[i] = now
        if not active:
            now = requests.at[queue[0]]
            continue
        writers = [i for i, one in active.items() if one["written"]]
        left, began = SERVER.chunk, CLOCK()
        for i in [i for i, one in active.items() if not one["written"]]:
            one, text = active[i], texts[i]
            ids = text[:, one["read"] : one["read"] + left]
            token = loop.run([one["slot"]], ids, [one["read"]])
            one["read"], left = one["read"] + ids.shape[1], left - ids.shape[1]
            if one["read"] == text.shape[1]:
                one["token"], one["fresh"] = token[0], True
            if not left:
                break
        if writers:
            those = [active[i] for i in writers]
            ids = torch.stack([one["token"] for one in those]).view(-1, 1)
            pasts = [requests.prompts[i] + active[i]["written"] - 1 for i in writers]
            tokens = loop.run([one["slot"] for one in those], ids, pasts)
            for one, token in zip(those, tokens, strict=True):
                one["token"], one["fresh"] = token, True
        took = CLOCK() - began
        now, busy = now + took, busy + took
        steps.append((took, len(writers) or np.nan))
        for i, one in list(active.items()):
            if not one.pop("fresh", False):
                continue
            one["written"] += 1
            first[i] = now if one["written"] == 1 else first[i]
            if one["written"] == max(1, requests.answers[i]):
                last[i] = now
                free.append(active.pop(i)["slot"])
    at, later = np.array(requests.at), np.array(requests.answers) - 1
    gaps = np.array([one for one in steps if one[1] == one[1]])
    times = first - at, (last - first) / np.where(later > 0, later, np.nan), last - at
    none = np.zeros(n)
    return Trace(at, *times, let_in - at, none, none, (gaps[:, 0], gaps[:, 1]), busy)


def ratios(said: Trace, was: Trace) -> dict[str, float]:
    """What the simulation says over what was computed, by time and percentile."""
    return {
        f"{name[:-2].upper()} p{q}": said.percentile(name, q) / was.percentile(name, q)
        for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s")
        for q in SHOWN
    }


def scenario(rate: float) -> Scenario:
    """Requests that come so often."""
    targets = Targets(e2e_s=1.0)
    return Scenario("small", "small", *LENGTHS, Arrivals(rate), targets, 0.02, {})


def as_rows(loop: Loop, points: Sequence[Point]) -> list[float]:
    """Seconds of points as `fastlab measure` takes them, on a cache that grows."""
    settings, clock = fl.Settings.for_device("cpu", budget_s=0.1), OwnTime()
    calls = (fl.prepare(loop.model, point, "cpu") for point in points)
    return [fl.time_call(call, settings, clock).seconds for call in calls]


def compare(
    point: Point, loads: Sequence[float], n: int, estimates: bool
) -> pd.DataFrame:
    """A row for each load and each way to know the steps."""
    most = tuple(length.at(100) for length in LENGTHS)
    loop, device = Loop(point, sum(most)), fl.device("h100")  # not asked where timed

    def steps(timed: Timed | None) -> Steps:
        here = device if timed else fl.this_device("cpu")
        return steps_of(point, here, (most[0], sum(most) - 1), SERVER, timed)

    known = {"rows": steps(partial(as_rows, loop))}
    if estimates:
        known["estimates"] = steps(None)
    loop.timed([replace(point, workload=fl.Workload("prefill", 1, 8))])  # warm
    before, found = steps(loop.timed), []
    probe = draw(scenario(1.0), point.shape, 500, 0)
    full = capacity(probe, before, SERVER).rate
    for load in loads:
        requests = draw(scenario(load * full), point.shape, n, round(100 * load))
        was = computed(requests, loop, point.shape.vocab)
        after = steps(loop.timed)
        for way, one in {"loop": between(before, after), **known}.items():
            said, busy = serve(requests, one, SERVER), was.busy_s / was.at.max()
            about = {"load": load, "steps by": way, "busy": busy}
            found.append(about | ratios(said, was))
        before = after
    return pd.DataFrame(found)


def between(one: Steps, other: Steps) -> Steps:
    """Half way between what was timed before and after."""
    read = (np.array(one.read) + np.array(other.read)) / 2
    write = (np.array(one.write) + np.array(other.write)) / 2
    return replace(one, read=read.tolist(), write=write.tolist())


def main() -> None:
    """Print what the simulation says over what was computed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=150)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.5, 0.7, 0.8])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--estimates", action="store_true", help="calibrates: minutes")
    wanted = parser.parse_args()
    sizes = {"layers": wanted.layers, "hidden": wanted.hidden, "vocab": 2048}
    point = point_of(family="llama", prompt_len=16, **sizes)
    rows = compare(point, wanted.loads, wanted.requests, wanted.estimates)
    pd.set_option("display.width", 200)
    print(rows.round(2).T.to_string(header=False))


if __name__ == "__main__":
    main()
