"""Counters beside the exact count: what torch sees, and strangers that fail or lack."""

import sys

import pytest

from fastlab.clock import counters
from fastlab.clock.counters import Counted, counted, torch_flops, torch_parameters
from fastlab.cost.memory import parameters
from fastlab.cost.operations import flops_by_part, total
from fastlab.spec import point_of

LITTLE = point_of(family="llama", layers=1, hidden=64, vocab=64, prompt_len=32)


@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-llama", "tiny-qwen3"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_torch_on_meta_is_exact(model, phase):
    point = point_of(model=model, phase=phase, prompt_len=16)
    assert torch_flops(point) == total(point, "flops")
    assert torch_parameters(point) == parameters(point.shape)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_counts_experts_too(precision):
    """Of the 12 tokens each goes through 2 MLPs of 3 products, and the router."""
    point = point_of(
        **{"family": "mixtral", "layers": 1, "hidden": 64, "vocab": 64},
        **{"ffn": 128, "prompt_len": 12, "precision": precision},
    )
    assert torch_flops(point) == total(point, "flops")
    assert flops_by_part(point)["MLP"] >= 12 * 2 * 3 * (2 * 64 * 128)


@pytest.fixture
def only(monkeypatch):
    """Sets the list of counters."""

    def choose(*chosen):
        monkeypatch.setattr(counters, "COUNTERS", list(chosen))
        return {(c.counter, c.attention): c for c in counted(LITTLE)}

    return choose


def test_torch_on_cpu_tensors_misses_fused_attention_and_nothing_else(only):
    found = only(*[c for c in counters.COUNTERS if c[1] == "torch"])
    parts = flops_by_part(LITTLE)
    missed = 1 - parts["attention"] / sum(parts.values())
    # later versions of torch may learn to see it
    seen = found["torch on CPU tensors", "sdpa"].ratio
    assert seen in (pytest.approx(missed), pytest.approx(1))
    assert found["torch on CPU tensors", "eager"].ratio == pytest.approx(1)
    assert found["torch on meta", "sdpa"].ratio == 1


def test_a_counter_that_lacks_or_fails_says_so_and_one_that_prints_is_quiet(
    only, capsys
):
    def broken(*_):
        raise RuntimeError("cannot\nsee attention")

    def loud(*_):
        print("layer 1: 3 MMac")
        print("warning", file=sys.stderr)
        return total(LITTLE, "flops") / 2

    found = only(
        ("absent", "no_such_package_at_all", lambda *_: 1.0),
        ("broken", "torch", broken),
        ("loud", "torch", loud),
    )
    said = Counted("absent", "sdpa", None, None, "not installed")
    assert found["absent", "sdpa"] == said
    assert found["broken", "eager"].said == "fails: RuntimeError: cannot"
    assert found["loud", "sdpa"].ratio == 0.5
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["calflops", "thop", "ptflops"])
def test_known_counters_where_they_are_installed(only, package):
    pytest.importorskip(package)
    found = only(*[c for c in counters.COUNTERS if c[1] == package])
    assert found[package, "sdpa"].ratio < 1.01
