"""The loop that the simulation is scored against: it writes what the model writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import benchmarks.serving as bench
from fastlab.serving.simulate import Requests, serve
from fastlab.spec import point_of

SMALL = {"family": "llama", "layers": 2, "hidden": 64, "vocab": 64, "prompt_len": 4}


@torch.inference_mode()
def test_the_loop_writes_what_the_model_writes_alone():
    loop = bench.Loop(point_of(**SMALL), 64)
    texts = [torch.arange(5)[None] + 1, torch.arange(9)[None] + 7]
    # The second prompt in two chunks, between them a token of the first.
    wrote = [loop.run([3], texts[0], [0]), None]
    loop.run([6], texts[1][:, :4], [0])
    wrote[0] = torch.stack([wrote[0], loop.run([3], wrote[0][:, None], [5])])
    wrote[1] = loop.run([6], texts[1][:, 4:], [4])
    both = torch.stack([wrote[0][-1], wrote[1]])
    last = loop.run([3, 6], both, [6, 9])
    loop.model.set_attn_implementation("sdpa")  # its own, without our cache
    found = [[*wrote[0][:, 0].tolist(), int(last[0])], [int(wrote[1]), int(last[1])]]
    for text, tokens in zip(texts, found, strict=True):
        ids = text
        for token in tokens:
            assert int(loop.model(ids).logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)


def test_computed_and_simulated_see_the_same_requests(monkeypatch):
    monkeypatch.setattr(bench, "REPEATS", 1)
    loop = bench.Loop(point_of(**SMALL), 64)
    monkeypatch.setattr(
        loop, "step", lambda slots, ids, pasts: (loop.run(slots, ids, pasts), 1.0)
    )
    asked = Requests([0.0, 0.5, 0.6, 30.0], [5, 40, 9, 3], [3, 1, 4, 2])
    was = bench.computed(asked, loop, 64)
    # Every pass takes a second, so that the simulation can be held to it exactly.
    steps = bench.Steps([1.0] * 100, [[1.0] * 9] * 9, fused=False)
    said = serve(asked, steps, bench.SERVER)
    for name in ("ttft_s", "tpot_s", "e2e_s", "queue"):
        np.testing.assert_allclose(getattr(said, name), getattr(was, name))
    assert said.busy_s == pytest.approx(was.busy_s)
    assert all(ratio == pytest.approx(1) for ratio in bench.ratios(said, was).values())
