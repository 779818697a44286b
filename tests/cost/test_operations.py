"""FLOPs, bytes and launches: against torch on the meta device, and worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fastlab.cost import ops
from fastlab.cost.article import article_as_printed, article_corrected
from fastlab.cost.memory import parameters
from fastlab.cost.operations import operations
from fastlab.models import build, numerics, prepare
from fastlab.spec import PRESETS, Point, grid, point_of
from fastlab.spec.shape import GROUPED
from tests.spec.test_point import points

FAMILIES = ("tiny-gpt2", "tiny-llama", "tiny-qwen3", "tiny-bert")
CALLS: list[dict[str, Any]] = [
    {"phase": "prefill"},
    {"phase": "prefill", "logits": "last"},
    {"phase": "decode"},
    {"phase": "decode", "cache": "none"},
    {"phase": "generate", "new_tokens": 4},
]


@pytest.fixture(autouse=True)
def no_packed_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cache transformers looks into position ids, which meta cannot."""
    name = "transformers.masking_utils.find_packed_sequence_indices"
    monkeypatch.setattr(name, lambda position_ids: None, raising=False)


def total(point: Point, field: str = "flops") -> int:
    return sum(op.times * getattr(op, field) for op in operations(point))


def counted_flops(point: Point, device: str = "meta") -> int:
    """What torch counts, without RoPE's outer product.

    Up to some 5.x transformers made the angles by a matmul of head_dim x S FLOPs (5.17
    does, 5.23 does not); we leave RoPE out everywhere.
    """
    model = build(point, device)
    call = prepare(model, point, device)
    with numerics("fp32"), FlopCounterMode(display=False) as counter:
        call.run()
    inside = counter.get_flop_counts().items()
    rope = sum(sum(c.values()) for name, c in inside if name.endswith("rotary_emb"))
    return counter.get_total_flops() - rope


def possible(model: str, call: dict[str, Any]) -> bool:
    return model != "tiny-bert" or call == {"phase": "prefill"}


CASES = [(m, c) for m in FAMILIES for c in CALLS if possible(m, c)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("model", "call"), CASES)
def test_flops_equal_torchs(model: str, call: dict, batch: int, attention: str) -> None:
    point = point_of(
        model=model, batch=batch, prompt_len=13, attention=attention, **call
    )
    assert total(point) == counted_flops(point)


@settings(max_examples=40)
@given(points())
def test_flops_and_parameters_equal_torchs_for_any_shape(point: Point) -> None:
    model = build(point, "meta")
    assert parameters(point.shape) == sum(p.numel() for p in model.parameters())
    assert total(point) == counted_flops(point)


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama-3.2-1b", "llama-3.1-8b"])
def test_parameters_of_the_published_models(name: str) -> None:
    known = {
        "gpt2": 124_439_808,
        "bert": 109_514_298,
        "llama-3.2-1b": 1_235_814_400,
        "llama-3.1-8b": 8_030_261_248,
    }
    assert parameters(PRESETS[name]) == known[name]
    assert parameters(PRESETS["qwen3-0.6b"]) == 596_049_920


def test_the_articles_case_by_hand() -> None:
    """n = 1024, 12 x 768: 24 n H^2 + 4 n^2 H a layer, 2 n H V for the head."""
    layer = 24 * 1024 * 768**2 + 4 * 1024**2 * 768
    by_hand = 12 * layer + 2 * 1024 * 768 * 50257
    point = point_of(model="article", prompt_len=1024)
    assert total(point) == by_hand == 291_648_307_200
    assert article_corrected(1024, 12, 768, 50257) == by_hand


def test_the_articles_formula_with_its_multiplication_done_right() -> None:
    """It prints 1.25e9 and 1.5e9; the second of these is near, the first is not."""
    assert article_as_printed(1024, 12, 768) == 14_495_514_624
    assert article_as_printed(1024, 3, 512) == 1_610_612_736


def test_a_linear_by_hand() -> None:
    op = ops.linear("q", m=3, n=5, k=7, a=2, w=2, bias=True)
    assert op.flops == 2 * 3 * 5 * 7
    assert op.weight_bytes == 2 * (7 * 5 + 5)
    assert op.activation_bytes == 2 * 3 * (7 + 5)
    assert op.bytes == op.weight_bytes + op.activation_bytes


def test_causal_attention_by_hand() -> None:
    """3 new queries after 2 cached keys see 3, 4 and 5 keys: 12 of 15 pairs."""
    op = ops.attention("a", 1, new=3, past=2, heads=4, kv_heads=2, d=8, a=2)
    assert op.flops == 4 * 4 * 8 * 15
    assert op.flops_causal == 4 * 4 * 8 * 12
    assert op.kv_read_bytes == 2 * 2 * 5 * 2 * 8
    assert op.activation_bytes == 2 * (2 * 3 * 4 * 8)


def test_bert_sees_both_ways() -> None:
    point = point_of(model="tiny-bert")
    assert total(point) == total(point, "flops_causal")


@pytest.mark.parametrize("model", FAMILIES)
def test_every_weight_is_read_once_by_a_prefill(model: str) -> None:
    """All parameters but the tables of which only rows are read."""
    point = point_of(model=model, precision="bf16")
    s = point.shape
    read = [op for op in operations(point) if op.kind != "embedding"]
    rows_only = 0 if s.tied else s.vocab * s.hidden
    rows_only += s.max_positions * s.hidden if s.family in ("gpt2", "bert") else 0
    rows_only += 2 * s.hidden if s.family == "bert" else 0  # token types
    weights = sum(op.times * op.weight_bytes for op in read)
    assert weights == 2 * (parameters(s) - rows_only)


def test_a_decode_step_reads_the_cache_and_appends() -> None:
    """llama-3.1-8b, 1,000 cached, bf16: 128 KiB a position, 2 x 32 x 8 x 128 x 2."""
    point = point_of(
        model="llama-3.1-8b", phase="decode", prompt_len=1000, precision="bf16"
    )
    row = 131_072
    ops = {op.name: op for op in operations(point)}
    assert ops["attention"].times * ops["attention"].kv_read_bytes == 1001 * row
    # DynamicCache copies what it has: read 1,000, written 1,001
    assert ops["cache"].times * ops["cache"].kv_read_bytes == 1000 * row
    assert ops["cache"].times * ops["cache"].kv_write_bytes == 1001 * row


def test_without_a_cache_a_decode_step_is_a_whole_prefill() -> None:
    step = point_of(model="tiny-llama", phase="decode", prompt_len=31, cache="none")
    whole = point_of(model="tiny-llama", prompt_len=32, cache="none", logits="last")
    assert operations(step) == operations(whole)


def test_a_generation_is_a_prefill_and_its_steps() -> None:
    both = {"model": "tiny-llama", "prompt_len": 10}
    whole = point_of(**both, phase="generate", new_tokens=3)
    parts = [
        point_of(**both, logits="last"),
        point_of(**both, phase="decode"),
        point_of(**both | {"prompt_len": 11}, phase="decode"),
    ]
    assert operations(whole) == [op for part in parts for op in operations(part)]


class Kernels(TorchDispatchMode):
    """Counts dispatched operations that compute: views and bookkeeping left out."""

    VIEWS = (
        *("view", "transpose", "split", "slice", "unsqueeze", "expand", "detach_"),
        *("alias", "dropout", "contiguous", "reshape", "to", "arange", "permute"),
        *("select", "t", "detach", "lift_fresh", "_to_copy"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(func).split(".")[1]
        self.count += name not in self.VIEWS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("model", FAMILIES)
def test_launches_are_those_that_torch_dispatches(
    model: str, phase: str, attention: str
) -> None:
    """Within a tenth for twelve layers: mask and position bookkeeping is not ours."""
    if not possible(model, {"phase": phase}):
        pytest.skip("bert does not decode")
    point = point_of(model=model, layers=12, phase=phase, attention=attention)
    call = prepare(build(point, "meta"), point, "meta")
    with numerics("fp32"), Kernels() as kernels:
        call.run()
    assert total(point, "launches") == pytest.approx(kernels.count, rel=0.1)


def test_sixteen_bit_halves_weights_not_flops() -> None:
    full, half = grid(model="gpt2", precision=["fp32", "bf16"])
    assert total(full) == total(half)
    assert total(full, "weight_bytes") == 2 * total(half, "weight_bytes")


def test_grouped_queries_save_cache_not_attention_flops() -> None:
    many = point_of(family="llama", layers=1, hidden=256)
    few = point_of(family="llama", layers=1, hidden=256, kv_heads=1)
    ops = [{op.name: op for op in operations(p)} for p in (many, few)]
    assert ops[0]["attention"].flops == ops[1]["attention"].flops
    assert ops[0]["cache"].kv_write_bytes == 4 * ops[1]["cache"].kv_write_bytes


def test_rope_belongs_to_the_grouped_families() -> None:
    for name in FAMILIES:
        point = point_of(model=name)
        rotated = any(op.name.startswith("rope") for op in operations(point))
        assert rotated == (point.shape.family in GROUPED)


def test_torch_misses_attention_on_cpu_tensors() -> None:
    """Why the counts above are taken on meta: SDPA on the CPU counts nothing."""
    point = point_of(model="tiny-llama", prompt_len=64)
    attention = next(op for op in operations(point) if op.kind == "attention")
    missing = total(point) - counted_flops(point, "cpu")
    assert missing in (0, attention.times * attention.flops)
