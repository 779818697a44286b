"""Fused operations: by hand, and against the calls in code that inductor generates."""

import re

import pytest
import torch
from torch._inductor.utils import run_and_get_code

from fastlab.cost.fusion import fused
from fastlab.cost.operations import operations
from fastlab.models import build
from fastlab.runtime.engines import prepare
from fastlab.spec import Point, point_of
from tests.cost.counting import named, total


def calls_of(point: Point) -> int:
    """Library products and generated kernels that the compiled call makes on a CPU."""
    torch._dynamo.reset()
    with torch.inference_mode():
        _, codes = run_and_get_code(lambda: prepare(build(point), point))
    kernels = r"(?:extern_kernels|torch\.ops)\.[\w.]+\(|cpp_fused\w*\("
    layer, body = codes[-1].split("def call(")
    shared = layer.partition("def auto_functionalized_subgraph_0(")[2]  # of all layers
    often = body.count("# subgraph: ")
    return len(re.findall(kernels, body)) + often * len(re.findall(kernels, shared))


@pytest.mark.parametrize(
    ("model", "how", "joined"),
    [
        # q, k, v run as one product, and gate, up: still counted one by one
        ("tiny-llama", {"phase": "decode", "runtime": "decoder"}, 3),
        ("tiny-bert", {"runtime": "compile"}, 0),
    ],
)
def test_launches_are_the_calls_of_generated_code(model, how, joined):
    point = point_of(model=model, layers=2, prompt_len=12, **how)
    calls = calls_of(point) + 2 * joined
    assert total(point, "launches") == pytest.approx(calls, rel=0.15)


def test_a_layer_by_hand():
    """gpt2, 10 rows of 64 in fp32: what is left of norms, residuals and GELU."""
    point = point_of(model="tiny-gpt2", prompt_len=10, runtime="compile", cache="none")
    ops = named(point)
    stream = 4 * 10 * 64
    assert not {"residual1", "residual2"} & set(ops)
    # in and out; of the sum before it the other input and the sum itself
    assert ops["norm2"].activation_bytes == 2 * stream + 2 * stream
    assert ops["norm1"].activation_bytes == ops["norm2"].activation_bytes
    assert ops["mlp.gelu"].activation_bytes == 2 * 4 * stream
    assert ops["mlp.gelu"].launches == 1


def test_products_stay_and_nothing_moves_more():
    eager = point_of(model="tiny-qwen3", phase="decode", cache="static")
    fast = point_of(model="tiny-qwen3", phase="decode", runtime="decoder")
    slow, quick = named(eager), named(fast)
    assert total(eager) == total(fast)
    assert total(eager, "weight_bytes") == pytest.approx(
        total(fast, "weight_bytes"), rel=0.01
    )
    assert total(fast, "activation_bytes") < 0.55 * total(eager, "activation_bytes")
    assert slow["attention"]._replace(compiled=True) == quick["attention"]
    for name in ("q", "out", "mlp.down", "head"):
        assert slow[name]._replace(kind="gemv", compiled=True) == quick[name]


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({}, "gemv"),
        ({"batch": 2}, "linear"),
        ({"precision": "int8"}, "linear"),  # the library's own, on packed weights
        ({"model": "tiny-gpt2"}, "conv1d"),
        ({"runtime": "eager"}, "linear"),
        # compiled without our loops
        ({"runtime": "transformers", "phase": "generate", "new_tokens": 3}, "linear"),
    ],
)
def test_one_row_times_a_dense_weight_is_compiled_to_a_loop(how, kind):
    step = {"phase": "decode", "cache": "static", "runtime": "decoder"}
    point = point_of(**{"model": "tiny-llama"} | step | how)
    *_, down = (op for op in operations(point) if op.name == "mlp.down")
    assert down.kind == kind
    assert down.compiled == (point.recipe.runtime != "eager")


def test_eager_attention_keeps_its_products_and_one_softmax():
    """Scores of 4 bytes written, read, written, read; the rest is q and the output."""
    how = {"attention": "eager", "runtime": "compile", "cache": "none"}
    point = point_of(model="tiny-gpt2", prompt_len=10, **how)
    made, heads = named(point)["attention"], point.shape.heads
    assert made.launches == 3
    assert made.activation_bytes == 2 * 4 * 10 * 64 + 4 * 4 * heads * 10 * 10
    assert fused([]) == []
