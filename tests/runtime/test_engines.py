"""prepare(): every runtime and cache gives the same tokens, or is refused by name."""

from typing import Any

import pytest
import torch

from fastlab.latency.devices import device
from fastlab.latency.estimates import estimate
from fastlab.machine import Here
from fastlab.models import numerics
from fastlab.runtime.cache import dtype_of
from fastlab.runtime.engines import RUN, prepare
from fastlab.shrink.recipes import build
from fastlab.spec import Point, point_of
from fastlab.spec.engines import CACHES, RUNTIMES
from fastlab.spec.unsupported import unsupported
from tests.small import TINY, generated, tiny

PAIR = ("compile", "autotuned")


def point(family: str = "llama", layers: int = 1, **over: Any) -> Point:
    sizes = {"layers": layers, "vocab": 97}
    rest = TINY[family] | {"prompt_len": 9, "batch": 2} | over
    return point_of(family=family, **sizes, **rest)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_eager_runs_agree_in_every_phase(family, cache):
    """One decode step is the last position of a prefill of one token more."""
    model = tiny(family)
    whole = point(family, phase="generate", new_tokens=6, cache=cache)
    with numerics("fp32"):
        call = prepare(model, whole)
        tokens = generated(model, call.ids, 6)
        if cache in ("none", "dynamic", "static"):
            assert torch.equal(call.run(), tokens)
            assert torch.equal(call.run(), tokens)
        step = prepare(model, point(family, phase="decode", cache=cache))
        prompt = torch.cat([step.ids, tokens[:, :1]], dim=1)[:, :10]
        if cache != "none":
            expected = model(prompt).logits[:, -1:]
            far = {"static-int8": 0.1, "static-fp8": 0.6}.get(cache, 1e-4)
            for _ in range(2):
                assert (step.run() - expected).abs().max() < far * expected.std()
                step.reset()
        prefill = prepare(model, point(family, cache=cache))
        expected = model(prefill.ids).logits
        torch.testing.assert_close(prefill.run(), expected, atol=1e-3, rtol=1e-4)
        assert step.ids.shape[1] in (9, 10)


@pytest.mark.parametrize(("cache", "apart"), [("dynamic", True), ("static", False)])
def test_the_last_rows_reach_our_own_head_side_by_side(cache, apart):
    """transformers cuts them out of the 9 positions, where they lie."""
    model, seen = tiny("llama"), []
    model.lm_head.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    with numerics("fp32"):
        prepare(model, point(cache=cache, logits="last")).run()
    assert seen[-1].shape == (2, 1, TINY["llama"]["hidden"])
    assert seen[-1].stride(0) == TINY["llama"]["hidden"] * (9 if apart else 1)
    assert not model.lm_head._forward_pre_hooks


def test_every_runtime_has_its_two_halves():
    """What it is, without torch, and what makes its calls ready."""
    assert [*RUN] == [*RUNTIMES]


def test_autotuned_is_compile_with_another_mode(monkeypatch):
    """The compiler is a stand-in, as tuning takes longer than all tests here."""
    asked: list[dict[str, Any]] = []

    def stand_in(function: Any, options: dict[str, Any], **_: Any) -> Any:
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", stand_in)
    for over in ({}, {"cache": "static"}, {"phase": "decode"}):
        runs = [prepare(tiny("llama"), point(runtime=r, **over)).run() for r in PAIR]
        torch.testing.assert_close(*runs)
        plain, tuned = asked[-2:]
        mode = torch._inductor.list_mode_options("max-autotune-no-cudagraphs")
        assert mode["max_autotune"]
        assert tuned == plain | mode
        same = [estimate([point(runtime=r, **over)], device("h200")) for r in PAIR]
        assert same[0] == same[1]


@pytest.mark.parametrize("cache", ["dynamic", "static-int8"])
def test_compiled_prefill(cache):
    model = tiny("llama")
    with numerics("fp32"):
        call = prepare(model, point(runtime="compile", cache=cache, logits="last"))
        expected = model(call.ids).logits[:, -1:]
        torch.testing.assert_close(call.run(), expected, atol=1e-3, rtol=1e-4)
    assert call.compile_s > 0


@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_a_prefix_is_copied_and_the_rest_computed(runtime):
    model = tiny("qwen3")
    over = {"cache": "static", "prefix_len": 4, "runtime": runtime}
    with numerics("fp32"):
        call = prepare(model, point("qwen3", **over))
        expected = model(call.ids).logits[:, 4:]
        for _ in range(2):
            torch.testing.assert_close(call.run(), expected, atol=1e-3, rtol=1e-4)


def test_generation_after_a_prefix():
    model = tiny("gpt2")
    over = {"phase": "generate", "new_tokens": 5, "prefix_len": 4}
    with numerics("fp32"):
        call = prepare(model, point("gpt2", cache="static", **over))
        assert torch.equal(call.run(), generated(model, call.ids, 5))


@pytest.mark.parametrize("runtime", ["transformers", "decoder"])
def test_compiled_generation_is_transformers(runtime):
    model = tiny("llama")
    unroll = 2 if runtime == "decoder" else 1
    over = {"phase": "generate", "new_tokens": 6, "runtime": runtime}
    with numerics("fp32"):
        call = prepare(model, point(**over, cache="static", unroll=unroll))
        assert torch.equal(call.run(), generated(model, call.ids, 6))
    assert call.compile_s > 0


@pytest.mark.parametrize("precision", ["int8", "int4-g32", "autocast-bf16"])
def test_lower_precisions_decode_compiled(precision):
    """Eager and compiled steps agree within what 16-bit activations lose."""
    sizes = {"family": "llama", "layers": 1, "hidden": 64, "heads": 4, "kv_heads": 2}
    sizes |= {"ffn": 128, "vocab": 97, "phase": "decode", "prompt_len": 9}
    eager, compiled = (
        point_of(**sizes, precision=precision, cache="static", runtime=runtime)
        for runtime in ("eager", "decoder")
    )
    model = build(eager)
    with numerics(precision):
        expected = prepare(model, eager).run().float()
        found = prepare(model, compiled).run().float()
    assert (expected - found).abs().max() < 0.05 * expected.std()
    wanted = torch.float32 if precision.startswith("auto") else torch.bfloat16
    assert dtype_of(model) == wanted


@pytest.mark.parametrize(
    ("over", "kind", "words"),
    [
        ({"runtime": "graph"}, "cpu", "runtime graph needs an NVIDIA GPU"),
        ({"attention": "sdpa-cudnn"}, "cpu", "attention sdpa-cudnn has kernels for"),
        ({"attention": "flex"}, "cpu", "attention flex has kernels for"),
        ({"attention": "flex"}, "cuda", "flex is a compiled kernel; runtime eager"),
        (
            {"phase": "generate", "runtime": "compile", "cache": "none"},
            "cpu",
            "without a cache would compile anew",
        ),
        (
            {"attention": "sdpa-flash", "runtime": "decoder", "precision": "bf16"},
            "cuda",
            "sdpa-flash takes no mask",
        ),
        ({"attention": "sdpa-flash"}, "cuda", "sdpa-flash computes in 16 bit only"),
    ],
)
def test_refusals(over, kind, words):
    asked = point(**({"phase": "decode"} | over))
    assert words in unsupported(asked, Here("cpu") if kind == "cpu" else device("h200"))
    if kind == "cpu":
        with pytest.raises(ValueError, match=words):
            prepare(tiny("llama"), asked)


def test_an_old_gpu_has_no_fp8_cache(monkeypatch):
    asked = point(phase="decode", cache="static-fp8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    reason = unsupported(asked, Here("cuda"))
    assert "static-fp8: fp8 needs an NVIDIA GPU with compute capability 8.9" in reason
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert unsupported(asked, Here("cuda")) is None


def test_without_a_compiler_compiled_runtimes_are_refused_by_name(monkeypatch):
    monkeypatch.setattr("fastlab.machine.which", lambda name: None)
    point = point_of(model="tiny-llama", phase="decode", runtime="decoder")
    assert unsupported(point, Here("cpu")) == (
        "runtime decoder: torch.compile needs a C++ compiler (g++ or clang++), "
        "and none is here"
    )
    eager = point_of(model="tiny-llama", phase="decode")
    assert unsupported(eager, Here("cpu")) is None
