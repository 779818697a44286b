"""Products of one row on a CPU: the same numbers by another way."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from fastlab.runtime.compiled import LARGE, STREAMS, OneRow, _side_by_side


@pytest.mark.parametrize("rows", [64, 1024, 1027])
@pytest.mark.parametrize("bias", [False, True])
def test_row_sums_are_the_product(rows: int, bias: bool) -> None:
    """1,024 inputs: from 1,024 rows on a weight is read in four parts and a rest."""
    torch.manual_seed(0)
    weight, x = torch.randn(rows, 1024), torch.randn(1, 1, 1024)
    more = torch.randn(rows) if bias else None
    expected = linear(x, weight, more)
    half = [t if t is None else t.bfloat16() for t in (weight, more)]
    with OneRow():
        found = linear(x.bfloat16(), *half)
    assert found.shape == (1, 1, rows)
    assert (found.float() - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("left", [0, 3])
def test_a_large_weight_is_read_in_equal_parts_and_a_rest(left: int) -> None:
    weight = torch.arange(LARGE // 256 + left)[:, None].expand(-1, 256)
    parts = _side_by_side(weight)
    assert [len(p) for p in parts] == [LARGE // 256 // STREAMS] * STREAMS + [left] * (
        left > 0
    )
    assert torch.equal(torch.cat(parts), weight)
    assert len(_side_by_side(weight[:-1] if not left else weight[:8])) == 1


def test_more_rows_and_fp32_take_the_usual_way() -> None:
    weight, calls = torch.randn(8, 4), []
    for x in (torch.randn(1, 2, 4).half(), torch.randn(1, 1, 4)):
        same = weight.to(x.dtype)
        expected = linear(x, same)
        with OneRow():
            calls.append(torch.equal(linear(x, same), expected))
    assert calls == [True, True]
