"""Calls that are counted together cost what each of them costs alone, to the digit."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastlab.cost.columns import FEW
from fastlab.latency.devices import device
from fastlab.latency.estimates import estimate
from fastlab.spec import PRESETS, ModelShape, Point, Recipe, Workload
from tests.runtime.families import small_config

# Windows of 8, chunks of 8 and 64, experts, states; closed forms of two kinds.
WATCHED = ("gemma3_text", "mixtral", "llama4_text", "qwen3_next")
SHAPES = {
    **{kind: ModelShape.from_config(small_config(kind)) for kind in WATCHED},
    **{name: PRESETS[name] for name in ("gpt2", "llama-3.1-8b")},
}
RECIPES = (
    *(Recipe("bf16"), Recipe("int8-dynamic"), Recipe("autocast-bf16")),
    *(Recipe("fp32", attention="eager"), Recipe("bf16", cache="none")),
    *(Recipe("fp32", cache="static", runtime=name) for name in ("eager", "decoder")),
    Recipe("int8", cache="static-int8", runtime="graph"),
)


@st.composite
def calls(draw: Any) -> list[Point]:
    """More than a few calls of one model, on both sides of what makes them differ."""
    shape, recipe = draw(st.sampled_from([*SHAPES])), draw(st.sampled_from(RECIPES))
    phase = draw(st.sampled_from(["prefill", "decode", "generate"]))
    sizes = st.tuples(st.integers(1, 9), st.integers(1, 90), st.integers(0, 1))
    each = draw(st.lists(sizes, min_size=FEW + 1, max_size=40))
    static, found = str(recipe.cache).startswith("static"), []
    for batch, length, prefix in each:
        reused = prefix * (length // 2) if static and phase != "decode" else 0
        new = 4 if phase == "generate" else None
        work = Workload(phase, batch, length, new, prefix_len=reused)
        try:
            found.append(Point(SHAPES[shape], work, recipe))
        except ValueError:
            return []  # this recipe does not go with the phase
    return found


@settings(max_examples=40, deadline=None)
@given(calls())
def test_many_are_what_each_is_alone(points: list[Point]) -> None:
    on = device("h100")
    try:
        alone = [estimate([point], on)[0] for point in points]
    except ValueError:
        return  # nor with the model
    assert estimate(points, on) == alone


def test_numbers_beyond_64_bits_are_exact() -> None:
    """4 x heads x width FLOPs for each pair of 2^31 sequences of 131,000 positions."""
    shape = PRESETS["llama-3.1-8b"]
    longest = [Workload("prefill", 2**31, 131_000 + i) for i in range(FEW + 1)]
    made = estimate(
        [Point(shape, one, Recipe("bf16")) for one in longest], device("h100")
    )
    for i, one in enumerate(made):
        rows = 2**31 * (131_000 + i)
        h, kv, f = 4096, 1024, 14336
        layer = 2 * rows * h * (2 * h + 2 * kv + 3 * f) + 4 * rows * (131_000 + i) * h
        assert one.flops == 32 * layer + 2 * rows * h * 128256
