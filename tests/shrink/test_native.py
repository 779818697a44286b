"""The products of dynamic.cpp beside the same in plain torch."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastlab.shrink.kernels import native, quantized_linear
from fastlab.spec.formats import FORMATS

ISA = native.isa(1)
BEST = pytest.mark.skipif(not ISA, reason="no AVX2, or no compiler")
INT4 = [n for n, f in FORMATS.items() if f.cpu_only]


def made(precision: str, n: int, k: int, dtype: torch.dtype) -> Any:
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(n * k))
    return quantized_linear(FORMATS[precision], weight.to(dtype), None)


def at_odds(x: Tensor) -> Tensor:
    """The same values, where no vector is aligned."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def exact(module: Any, x: Tensor) -> Tensor:
    """Codes of x, by hand, times the weight: in fp64, where sums do not round.

    With int8 weights the largest value of a row is no code.
    """
    int4 = hasattr(module, "exact")
    rest = x.float()
    top = torch.zeros_like(rest)
    if not int4:
        at = rest.abs().max(-1, keepdim=True).indices
        top.scatter_(-1, at, rest.gather(-1, at))
    rest = rest - top
    scale = (rest.abs().amax(-1, keepdim=True) / 127).clamp(min=2.0**-126)
    seen = (rest / scale).round().double() * scale + top
    weight = module.exact() if int4 else module.weight * module.scales.double()[:, None]
    return seen @ weight.double().t()


@pytest.mark.skipif(ISA < 3, reason="no AMX, or no compiler")
@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.integers(1, 70), st.integers(250, 300)),
    st.one_of(st.integers(native.MANY, 70), st.just(130)),
    st.one_of(st.integers(1, 300), st.just(3000)),
    st.sampled_from(["int8", "int4-g32", "int4-g64", "int4-g128", "int4-g256"]),
)
def test_weights_widened_for_many_rows(n: int, m: int, k: int, precision: str) -> None:
    """Within the rounding of the result to bf16 of exact sums; torch's path as well."""
    group = FORMATS[precision].group or 1
    module = made(precision, n, group * -(-k // group), torch.bfloat16)
    x = at_odds(torch.randn(m, module.in_features).bfloat16())
    assert native.widens(x, module.isa)
    whole = (
        module.dense() if group > 1 else module.weight.float() * module.scales[:, None]
    )
    expected = x.double() @ whole.double().t()
    got, module.isa = module(x), 0
    assert got.shape == (m, n) and got.dtype == torch.bfloat16
    near = 2.0**-8 * expected.abs() + 1e-4 * expected.abs().max().item()
    assert bool(((got.double() - expected).abs() <= near).all())
    torch.testing.assert_close(module(x), got, rtol=0, atol=4 * near.max().item())


@pytest.mark.parametrize(("n", "m", "k"), [(69, 3, 1056), (29, 3, 352), (122, 5, 1520)])
def test_int8_times_rows_that_begin_anywhere(n: int, m: int, k: int) -> None:
    """Torch's own product, given them as they lie, ends the process with a signal."""
    module = made("int8", n, k, torch.bfloat16)
    module.isa, x = 0, torch.randn(m, k).bfloat16()
    assert at_odds(x).data_ptr() % 32
    assert torch.equal(module(at_odds(x)), module(x))


@BEST
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.one_of(st.integers(1, 35), st.just(130)),
    st.integers(1, 300),
    st.sampled_from(["int8-dynamic", *INT4]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(1, max(ISA, 1)),
)
def test_products_of_any_size(
    n: int, m: int, k: int, precision: str, dtype: torch.dtype, isa: int
) -> None:
    """Within the rounding of the result, and of fp32 sums of groups."""
    group = FORMATS[precision].group or 1
    module = made(precision, n, group * (1 + k // group), dtype)
    for name in ("weight", "packed"):
        if hasattr(module, name) and getattr(module, name) is not None:
            moved = at_odds(getattr(module, name).data)
            setattr(module, name, torch.nn.Parameter(moved, requires_grad=False))
    x = at_odds(torch.randn(m, module.in_features).to(dtype))
    expected, module.isa = exact(module, x), isa
    got = module(x)
    assert got.shape == (m, n) and got.dtype == dtype
    near = max(torch.finfo(dtype).eps, 1e-5) * expected.abs().max().item()
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=near)
    module.isa = 0
    torch.testing.assert_close(module(x).double(), expected, rtol=0, atol=near)


@BEST
@pytest.mark.parametrize(
    "name", ["int8", "int8-dynamic", "int4-g64", "int4-g64-dynamic"]
)
def test_what_is_not_finite_stays_so_and_no_rows_are_none(name: str) -> None:
    module = made(name, 20, 64, torch.bfloat16)
    x = torch.ones(40, 64, dtype=torch.bfloat16)
    x[1, 5], x[2] = torch.inf, 0
    y = module(x)
    assert bool(y[0].isfinite().all()) and not bool(y[1].isfinite().any())
    assert torch.equal(y[2], torch.zeros(20).bfloat16())
    assert module(x[:0]).shape == (0, 20)


@pytest.mark.parametrize("precision", ["int8", "int4-g64", "fp8", *INT4])
def test_rows_are_read_where_they_lie(precision: str) -> None:
    module = made(precision, 50, 256, torch.bfloat16)
    ids = torch.tensor([[0, 17], [49, 17]])
    assert torch.equal(module.rows(ids), module.dense()[ids])


@BEST
@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 20])
@pytest.mark.parametrize(
    "name", ["int8", "int8-dynamic", "int4-g64", "int4-g64-dynamic"]
)
def test_it_compiles_to_one_graph(name: str, rows: int) -> None:
    module, x = made(name, 48, 64, torch.bfloat16), torch.randn(rows, 64).bfloat16()
    torch.compiler.reset()  # all of them are one forward's, of which few are kept
    with torch.inference_mode():
        got = torch.compile(module, fullgraph=True)(x)
        assert torch.equal(got, module(x))


def test_without_a_compiler_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native._best.__wrapped__() == 0
    assert capsys.readouterr().err.count("\n") == 1

    def broken(*command: Any, **how: Any) -> None:
        raise subprocess.CalledProcessError(1, "g++", stderr="line one\nline two")

    monkeypatch.setattr(subprocess, "run", broken)
    assert native._best.__wrapped__() == 0
    assert "slowly: line one\n" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.so"))
