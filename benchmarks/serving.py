"""The serving simulation beside a really computed loop, and transformers' own.

    python -m benchmarks.serving [--requests 150] [--loads 0.3 0.5 0.8] [--theirs]

A small model answers requests that arrive on a virtual clock, several at a time: each
step is computed and timed, and the clock moves on by what it took. The same requests go
through the simulation, whose steps are timed alone beforehand and afterwards ("loop"),
or are rows as fastlab measures them ("rows"), or its estimates. All in one thread, by
its own time, each step's over that of a reference beside it: other programs matter
less. Printed: what it says over what was computed, for each load and percentile.
--theirs: generate_batch of transformers on requests that are all there at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as attend
from transformers import (
    AttentionInterface,
    ContinuousBatchingConfig,
    GenerationConfig,
)
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.generation.continuous_batching import requests as requests_of

import fastlab as fl
from fastlab.clock.clocks import CpuClock
from fastlab.serving.simulate import Requests, Trace, capacity, draw, serve
from fastlab.serving.steps import Server, Steps, Timed, steps_of
from fastlab.spec import Point, point_of
from fastlab.spec.scenarios import Arrivals, Lengths, Scenario, Targets

SERVER = Server(slots=8, chunk=128, fused=False)
LENGTHS = Lengths(low=16, high=256), Lengths(low=4, high=40)
CLOCK = time.thread_time  # of this thread: the wall's has other programs in it
REPEATS = 2  # of each step: it writes the same each time
BESIDE = 2  # steps, then the reference is timed: by how much has the machine slowed?
SPARE = SERVER.slots  # a slot of the cache that serves nobody
REFERENCE = [SPARE], torch.zeros(1, 48, dtype=torch.int64), [0]
SHOWN = (50, 90, 99)


class OwnTime(CpuClock):
    """The clock of fastlab's rows, by this thread's time."""

    now_ns = mark = staticmethod(time.thread_time_ns)


class SlotLayer(CacheLayerMixin):
    """Keys and values of all slots; a call writes those of `slots` alone."""

    def __init__(self, shape: Any, length: int, place: dict[str, Any]) -> None:
        super().__init__()
        size = SERVER.slots + 1, shape.kv_heads, length, shape.head_dim
        self.keys, self.values = torch.zeros(size), torch.zeros(size)
        self.place, self.is_initialized = place, True

    def update(self, keys: Any, values: Any, *_: Any, **__: Any) -> Any:
        slots, at = torch.tensor(self.place["slots"]), self.place["at"]
        for own, new in ((self.keys, keys), (self.values, values)):
            own[slots[:, None], :, at] = new.transpose(1, 2)
        return self.keys, self.values

    def lazy_initialization(self, *_: Any) -> None: ...
    def get_mask_sizes(self, *_: Any) -> tuple[int, int]:
        return max(self.place["ends"]), 0

    def get_seq_length(self, *_: Any) -> int:
        return max(self.place["ends"]) - self.place["at"].shape[1]

    def get_max_length(self) -> int:
        return self.keys.shape[2]


def ragged(place: dict[str, Any], module: Any, query: Any, key: Any, value: Any,
           _: Any, scaling: float, **__: Any) -> tuple[Any, None]:  # fmt: skip
    """Attention of each slot to as many rows as it has, and no more."""
    found = []
    for q, slot, end in zip(query, place["slots"], place["ends"], strict=True):
        k, v, new = key[slot, :, :end], value[slot, :, :end], q.shape[1]
        mask = torch.ones(new, end, dtype=torch.bool).tril(end - new)
        how = {"scale": scaling, "enable_gqa": True}
        how["attn_mask"] = mask if new > 1 else None
        found.append(attend(q[None], k[None], v[None], **how))
    return torch.cat(found).transpose(1, 2), None


class Loop:
    """The model, and one pass for some of the slots."""

    def __init__(self, point: Point, length: int) -> None:
        self.model: Any = fl.build(point, "cpu")
        self.place: dict[str, Any] = {}
        shape = point.built_shape
        layers = [SlotLayer(shape, length, self.place) for _ in range(shape.layers)]
        self.cache = Cache(layers=layers)
        self.turns, self.slow, self.usual = 0, 1.0, 0.0
        AttentionInterface.register("ragged", partial(ragged, self.place))
        self.model.set_attn_implementation("ragged")

    def step(self, *how: Any) -> tuple[Any, float]:
        """The next tokens, and seconds of a machine as fast as it was at first."""
        self.turns += 1
        if self.turns % BESIDE == 0:
            self.slow = (self.slow + self.drift()) / 2
        tokens, seconds = self.least(*how)
        return tokens, seconds / self.slow

    def drift(self) -> float:
        """How slow the machine is now, beside when this was asked first."""
        now = self.least(*REFERENCE)[1]
        self.usual = self.usual or now
        return now / self.usual

    def least(self, *how: Any) -> tuple[Any, float]:
        """The next tokens, and the least seconds of some repeats."""
        took = []
        for _ in range(REPEATS):
            began = CLOCK()
            tokens = self.run(*how)
            took.append(CLOCK() - began)
        return tokens, min(took)

    @torch.inference_mode()
    def run(self, slots: Sequence[int], ids: torch.Tensor, pasts: Sequence[int]) -> Any:
        """Read ids (slots, new) after so many positions of each; the next tokens."""
        at = torch.tensor(pasts)[:, None] + torch.arange(ids.shape[1])
        ends = [past + ids.shape[1] for past in pasts]
        self.place.update(slots=slots, at=at, ends=ends)
        out = self.model(
            input_ids=ids,
            position_ids=at,
            past_key_values=self.cache,
            logits_to_keep=1,
        )
        return out.logits[:, -1].argmax(-1)

    def timed(self, points: Sequence[Point]) -> list[float]:
        """Seconds of single steps, each the median of three rounds."""
        rounds = [[self._alone(point.workload) for point in points] for _ in range(3)]
        return [float(np.median(each)) for each in zip(*rounds, strict=True)]

    def _alone(self, work: fl.Workload) -> float:
        writes = work.phase == "decode"
        ids = torch.zeros(work.batch, 1 if writes else work.prompt_len).long()
        pasts = [work.prompt_len if writes else 0] * work.batch
        return float(self.step(list(range(work.batch)), ids, pasts)[1])


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
        left, took = SERVER.chunk, 0.0
        for i in [i for i, one in active.items() if not one["written"]]:
            one, text = active[i], texts[i]
            ids = text[:, one["read"] : one["read"] + left]
            token, own = loop.step([one["slot"]], ids, [one["read"]])
            took += own
            one["read"], left = one["read"] + ids.shape[1], left - ids.shape[1]
            if one["read"] == text.shape[1]:
                one["token"], one["fresh"] = token[0], True
            if not left:
                break
        if writers:
            those = [active[i] for i in writers]
            ids = torch.stack([one["token"] for one in those]).view(-1, 1)
            pasts = [requests.prompts[i] + active[i]["written"] - 1 for i in writers]
            tokens, own = loop.step([one["slot"] for one in those], ids, pasts)
            took += own
            for one, token in zip(those, tokens, strict=True):
                one["token"], one["fresh"] = token, True
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
    found = []
    for point in points:
        before = loop.drift()
        loop.model.set_attn_implementation(point.recipe.attention)
        call = fl.prepare(loop.model, point, "cpu")
        seconds = fl.time_call(call, settings, clock).seconds
        loop.model.set_attn_implementation("ragged")
        found.append(seconds / ((before + loop.drift()) / 2))
    return found


def compare(
    point: Point, loads: Sequence[float], n: int, estimates: bool
) -> Iterator[dict[str, Any]]:
    """A row for each load and each way to know the steps."""
    most = tuple(length.at(100) for length in LENGTHS)
    loop, device = Loop(point, sum(most)), fl.device("h100")  # not asked where timed

    def steps(timed: Timed | None) -> Steps:
        here = device if timed else fl.this_device("cpu")
        return steps_of(point, here, (most[0], sum(most) - 1), SERVER, timed)

    loop.timed([replace(point, workload=fl.Workload("prefill", 1, 8))] * 5)  # warm
    loop.usual = 0.0
    known = {"rows": steps(partial(as_rows, loop))}
    if estimates:
        known["estimates"] = steps(None)
    before = steps(loop.timed)
    probe = draw(scenario(1.0), point.shape, 500, 0)
    full = capacity(probe, before, SERVER).rate
    for load in loads:
        requests = draw(scenario(load * full), point.shape, n, round(100 * load))
        was = computed(requests, loop, point.shape.vocab)
        after = steps(loop.timed)
        for way, one in {"loop": between(before, after), **known}.items():
            said = serve(requests, one, SERVER)
            busy = said.busy_s / was.busy_s
            about = {"load": load, "steps by": way, "busy": busy}
            yield about | ratios(said, was)
        before = after


class Theirs:
    """transformers' generate_batch: 8 sequences at a time, 128 tokens a pass."""

    def __init__(self, point: Point) -> None:
        requests_of.time = SimpleNamespace(perf_counter=time.process_time)
        self.model: Any = fl.build(point, "cpu")
        own = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
        memory = {"num_blocks": 64, "page_size": 32, "allow_block_sharing": False}
        most = {"max_batch_tokens": 128, "max_requests_per_batch": SERVER.slots}
        self.how = {
            "generation_config": GenerationConfig(**own),
            "continuous_batching_config": ContinuousBatchingConfig(**memory, **most),
            "record_timestamps": True,
            "warmup": False,
        }

    def run(self, prompts: Sequence[int], new: int) -> np.ndarray:
        """Seconds to each token, [requests, new], since the first was taken up."""
        texts = [[5] * n for n in prompts]
        out = self.model.generate_batch(texts, max_new_tokens=new, **self.how).values()
        began = min(one.lifespan[0] for one in out)
        return np.array([one.timestamps for one in out]) - began

    def timed(self, points: Sequence[Point]) -> list[float]:
        """Seconds of single steps: of runs with nothing else in them."""
        return [self._alone(point.workload) for point in points]

    def _alone(self, work: fl.Workload) -> float:
        if work.phase == "prefill":
            return float(self.run([work.prompt_len], 1)[0, 0])
        reads = -(-work.prompt_len * work.batch // SERVER.chunk)  # passes; the first
        gaps = np.diff(self.run([work.prompt_len] * work.batch, reads + 6)[-1])
        return float(np.median(gaps[:5]))  # still write beside the last


def compare_theirs(point: Point, n: int, new: int = 24) -> Iterator[dict[str, Any]]:
    """The same for n requests that are there at once, each of so many tokens."""
    theirs, longest = Theirs(point), (128, 128 + new - 1)
    # Its budget is of all tokens in a pass, and all slots but one write beside prompts.
    server = replace(SERVER, fused=True, chunk=SERVER.chunk - SERVER.slots + 1)

    def steps() -> Steps:
        return steps_of(point, fl.device("h100"), longest, server, theirs.timed)

    theirs.run([8], 2)  # warm
    before = steps()
    for seed in range(3):
        prompts = np.random.default_rng(seed).integers(16, 129, n).tolist()
        took = theirs.run(prompts, new)
        one = between(before, before := steps())
        said = serve(Requests([0.0] * n, prompts, [new] * n), one, server)
        first, last, none = took[:, 0], took[:, -1], np.zeros(n)
        gaps = np.diff(took).ravel(), np.ones(n * (new - 1))
        times = none, first, (last - first) / (new - 1), last
        was = Trace(*times, none, none, none, gaps, last.max())
        busy = said.busy_s / was.busy_s
        yield {"seed": seed, "busy": busy} | ratios(said, was)


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
    parser.add_argument("--theirs", action="store_true", help="generate_batch instead")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {"layers": wanted.layers, "hidden": wanted.hidden, "vocab": 2048}
    point = point_of(family="llama", prompt_len=16, **sizes)
    if wanted.theirs:
        rows = compare_theirs(point, wanted.requests)
    else:
        rows = compare(point, wanted.loads, wanted.requests, wanted.estimates)
    for i, row in enumerate(rows):
        if not i:
            print(" ".join(f"{name:>9}" for name in row))
        cells = (
            f"{v:>9.2f}" if isinstance(v, float) else f"{v:>9}" for v in row.values()
        )
        print(" ".join(cells), flush=True)


if __name__ == "__main__":
    main()
