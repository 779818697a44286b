"""Triton's kernels under its interpreter: equal to the dequantized product."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from benchmarks import unroll
from fastlab.clock.timing import Settings
from fastlab.shrink.kernels import int4, int8
from fastlab.spec.formats import FORMATS
from tests.small import normal

FACTORS = (1, 2, 4, 8, 16)


@pytest.fixture(scope="module")
def unrolled() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield pytest.importorskip(
            "fastlab.shrink.kernels.unrolled",
            reason="triton is not installed (make installs it on Linux)",
            exc_type=ImportError,
        )


@settings(max_examples=8, deadline=None)
@given(
    m=st.integers(1, 16),
    n=st.integers(1, 40),
    k=st.integers(1, 300),
    unroll=st.sampled_from(FACTORS),
    half=st.booleans(),
)
def test_int8_is_the_dequantized_product(
    unrolled: ModuleType, m: int, n: int, k: int, unroll: int, half: bool
) -> None:
    weight, x = normal(n, k), normal(m, k)
    held = int8.rounded(weight, FORMATS["int8"])
    x = x.half() if half else x
    got = unrolled.int8_product(x, held["weight"], held["scales"], unroll)
    dense = held["weight"].float() * held["scales"][:, None]
    assert got.dtype == x.dtype and got.shape == (m, n)
    close = 1e-3 if half else 1e-5
    assert_close(got.float(), x.float() @ dense.T, rtol=close, atol=close * k**0.5)


@settings(max_examples=8, deadline=None)
@given(
    m=st.integers(1, 16),
    n=st.integers(1, 40),
    groups=st.integers(1, 5),
    group=st.sampled_from((32, 64, 128, 256)),
    unroll=st.sampled_from(FACTORS),
)
def test_int4_is_the_dequantized_product(
    unrolled: ModuleType, m: int, n: int, groups: int, group: int, unroll: int
) -> None:
    weight, x = normal(n, group * groups), normal(m, group * groups)
    form = FORMATS[f"int4-g{group}"]
    held = int4.rounded(weight + 0.3, form)  # so that zero points count
    got = unrolled.int4_product(x, held["packed"], held["pairs"], n, unroll)
    dense = int4.Int4Linear(form, weight.shape, None, **held).dense()
    assert_close(got, x @ dense.T, rtol=1e-4, atol=1e-4 * (group * groups) ** 0.5)


def test_one_group_by_hand(unrolled: ModuleType) -> None:
    """32 codes, first 15 then 8s, scale 2, zero 1: (15 - 8) 2 + 1 = 15, then all 1."""
    packed = torch.full((16, 16), 0x88, dtype=torch.uint8)
    packed[:, 0] = 0xF8
    pairs = torch.tensor([2.0, 1.0]).expand(1, 16, 2).contiguous()
    x = torch.ones(1, 32)
    x[0, 0] = 10
    got = unrolled.int4_product(x, packed, pairs, 3)
    assert got.tolist() == [[10 * 15 + 31] * 3]


def test_the_benchmarks_table(unrolled: ModuleType) -> None:
    """Its lines, not its times: the interpreter's say nothing of a GPU."""
    settings = Settings.for_device("cpu", n_min=1, n_max=1, warmup_s=0)
    table = unroll.times("cpu", settings, (2,), ((16, 256),), (1, 4), torch.float32)
    assert table.kernel.tolist() == ["int8"] * 2 + ["int4-g64"] * 2
    assert table.trips.tolist() == [2, 1, 4, 1]
    # int8 16 x 256 and 16 scales in fp32; half of it and 4 x 16 pairs of those
    moved = table["GB/s"] * table.us * 1e3
    assert moved.round().tolist() == [4160.0] * 2 + [2560.0] * 2


def test_a_cpu_does_not_take_them(unrolled: ModuleType) -> None:
    assert not unrolled.takes(torch.ones(1, 8))
