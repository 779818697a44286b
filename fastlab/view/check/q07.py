"""The exercises of notebook 07: what can be cut, what is left, what zeros cost."""

from __future__ import annotations

import math

from fastlab.view.check.exercise import formula, number
from fastlab.view.check.q02 import choice

q07_1 = choice(
    "07_1",
    "b",
    "abcd",
    why="a dense kernel reads every weight and multiplies by it, whatever its value: "
    "as many bytes, as many FLOPs. Only weights that are gone from the tensor, or "
    "stored in another format, can save time.",
    wrong=[
        ("a", "with 90 % of them the dense product takes just as long: try the figure"),
        ("c", "sparse units skip zeros only in weights packed for them, as 2:4 is; "
         "these are packed nowhere"),
        ("d", "the intervals are far smaller than the half that is missing"),
    ],
    otherwise="what does the kernel of a dense product do with a weight that is zero?",
)  # fmt: skip

q07_2 = number(
    "07_2",
    75,
    why="a weight that stays costs 4 bytes for its value and 4 for its column, a dense "
    "one 2: at 25 % left, 75 % zeros, both take 2 bytes a weight. And fewer bytes are "
    "not less time yet: columns must be looked up one by one.",
    wrong=[
        (50, "that is against fp32, 4 bytes a dense weight; bf16 takes 2"),
        (25, "that is the share that stays: how many are zero?"),
        (0.75, "in per cent, please"),
        (0.25, "that is the share that stays; and in per cent, please"),
        (66.667, "that counts 16-bit values: torch's CSR product on a CPU wants fp32"),
        (33.333, "16-bit values, and the share that stays: torch wants fp32, and zeros "
         "are asked for"),
        (87.5, "int32 columns take 4 bytes, not 12"),
    ],
    otherwise="bytes of one weight that stays (value and column) x share that stays = "
    "bytes of one dense weight.",
)  # fmt: skip

q07_3 = number(
    "07_3",
    2,
    why="whole groups go: 3, 6 or 9 query heads could stay. A llama config wants heads "
    "to divide the width, and 9 does not divide 768: 3 and 6 remain. That is why the "
    "figure has no 25 % of heads.",
    wrong=[
        (3, "nearly: 3, 6 and 9 are whole groups; does each divide 768?"),
        (11, "single heads cannot go: three of them read the same keys and values"),
        (4, "all four groups is no cut, and one other does not divide 768"),
        (1, "half is one; which other number of whole groups divides 768?"),
        (5, "those are the divisors of 12 below 12: heads go in groups of three"),
    ],
    otherwise="which multiples of 3, below 12, divide 768?",
)

q07_4 = formula(
    "07_4",
    lambda size, share, multiple: max(
        1, math.floor(size * (1 - share) / multiple + 0.5)
    )
    * multiple,
    tries=[(2048, 0.3, 64), (512, 0.3, 64), (2816, 0.25, 64), (2048, 0.3, 1)],
    why="30 % of 2,048 would leave 1,433.6; the nearest multiple of 64 is 1,408. "
    "Kernels work in tiles: a width between two multiples pays for the larger one.",
    wrong=[
        (lambda n, s, m: n * (1 - s), "that need not be a multiple, nor whole"),
        (lambda n, s, m: round(n * (1 - s)), "whole, but is it a multiple?"),
        (lambda n, s, m: n * (1 - s) // m * m, "to the nearest multiple, not always "
         "down"),
        (lambda n, s, m: math.ceil(n * (1 - s) / m) * m, "to the nearest multiple, not "
         "always up"),
        (lambda n, s, m: math.floor(n * s / m + 0.5) * m, "that is what goes: asked is "
         "what stays"),
        (lambda n, s, m: math.floor(n * (1 - s) / m + 0.5), "that is how many "
         "multiples: times the multiple"),
    ],
    otherwise="size x (1 - share), in multiples: rounded to the nearest whole number, "
    "then times the multiple.",
)  # fmt: skip
