"""The article's formulas, audited line by line: printed, worked out, and right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlab.cost import article as printed
from fastlab.cost.operations import flops_by_part, total
from fastlab.spec.grids import point_of
from fastlab.spec.point import Point
from fastlab.view.numbers import factor, power

if TYPE_CHECKING:
    import pandas as pd


def audit_article() -> pd.DataFrame:
    """The article's section 4.3 line by line: printed, worked out, and what is right.

    `right` is counted operation by operation, for the sizes that the line is about.
    """
    import pandas as pd

    columns = ["the article's line", "it prints", "that gives", "right", "why"]
    return pd.DataFrame(_article(), columns=columns)


def _article() -> list[tuple[str, str, str, str, str]]:
    sizes, small = (1024, 12, 768), (1024, 3, 512)
    large_flops, small_flops = _gpt2_flops(*sizes), _gpt2_flops(*small)
    formula = printed.article_as_printed
    passes, best = printed.PRINTED_BOTH_PASSES, printed.PRINTED_OPTIMISED
    return [
        (
            "forward: 2·12·(1024·768²)",
            power(printed.PRINTED[sizes]),
            power(formula(*sizes)),
            power(large_flops),
            "one H×H product a layer; there are 12, attention, and the head",
        ),
        (
            "twice that, with a backward pass",
            power(passes),
            power(2 * formula(*sizes)),
            power(large_flops),
            "inference has no backward pass",
        ),
        (
            "pruned: 2·3·(1024·512²)",
            power(printed.PRINTED[small]),
            power(formula(*small)),
            power(small_flops),
            "the vocabulary head did not shrink with the layers",
        ),
        (
            "16 bit: 1.5·10⁸ / 8",
            power(printed.PRINTED_16_BIT),
            power(formula(*small) / 8),
            power(small_flops),
            "1.5·10⁹ lost a zero; 16 bit halves bytes, not operations",
        ),
        (
            "faster by 2.5·10⁹ / 1.75·10⁷",
            "thousands",
            factor(passes / best),
            factor(large_flops / small_flops),
            "FLOPs saved; the time saved has to be measured",
        ),
        (
            "attention is O(n³): n doubles",
            "n³",
            factor(2**3),
            factor(_attention_growth(sizes)),
            "n² pairs of H numbers each: O(n² H)",
        ),
    ]


def _gpt2(n: int, layers: int, hidden: int) -> Point:
    sizes = {"layers": layers, "hidden": hidden, "max_positions": 2 * n}
    return point_of(family="gpt2", prompt_len=n, **sizes)


def _gpt2_flops(n: int, layers: int, hidden: int) -> int:
    return total(_gpt2(n, layers, hidden), "flops")


def _attention_growth(sizes: tuple[int, int, int]) -> float:
    n, layers, hidden = sizes
    short, long = (_gpt2(m, layers, hidden) for m in (n, 2 * n))
    return flops_by_part(long)["attention"] / flops_by_part(short)["attention"]
