"""Products of one row on a CPU: the same numbers by another way."""

import pytest
import torch
from torch.nn.functional import linear

from fastlab.runtime.compiled import OneRow


@pytest.mark.parametrize("rows", [64, 1024, 1027])
@pytest.mark.parametrize("bias", [False, True])
def test_row_sums_are_the_product(rows, bias):
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


def test_more_rows_and_fp32_take_the_usual_way():
    weight, calls = torch.randn(8, 4), []
    for x in (torch.randn(1, 2, 4).half(), torch.randn(1, 1, 4)):
        same = weight.to(x.dtype)
        expected = linear(x, same)
        with OneRow():
            calls.append(torch.equal(linear(x, same), expected))
    assert calls == [True, True]
