"""The exercises of notebook 09: KL, T squared, a palette in bytes, a k-means step."""

from __future__ import annotations

import math

from fastlab.view.check.exercise import formula, number

q09_1 = number(
    "09_1",
    0.5 * math.log(4 / 3),
    why="1/2 ln((1/2) / (1/4)) + 1/2 ln((1/2) / (3/4)) = 1/2 ln 2 - 1/2 ln 1.5 = "
    "0.1438 nats. One term is negative, the sum never is.",
    wrong=[
        (0.5 * math.log2(4 / 3), "that is bits: nats take the natural logarithm"),
        (0.25 * math.log(0.5) + 0.75 * math.log(1.5),
         "that is KL(student || teacher): the teacher's shares are the weights"),
        (0.5 * math.log(4) + 0.5 * math.log(4 / 3),
         "that is the cross-entropy: take the teacher's own entropy, ln 2, from it"),
        (0.5 * math.log(2) + 0.5 * math.log(1.5),
         "the second term is negative there: the student gives more than the teacher"),
        (0.5 * math.log(2), "one token is missing: its term is negative"),
        (math.log(4 / 3), "weight each term with the teacher's share, 1/2"),
        (-0.5 * math.log(4 / 3), "upside down: ln(teacher's share / student's share)"),
    ],
    otherwise="sum over both tokens: teacher's share x ln(teacher's share / student's "
    "share).",
)  # fmt: skip

q09_2 = number(
    "09_2",
    16,
    why="the gradient of T's KL by a logit is (q - p) / T, and q - p of the softened "
    "shares is itself about T times smaller: 1 / T^2 = 1 / 16. Times T^2 it stays, and "
    "the balance with the cross-entropy does too.",
    wrong=[
        (4, "one factor comes from dividing logits by T; the softened shares also lie "
         "T times closer together"),
        (2, "that is the square root of 4: the factor grows faster than T"),
        (8, "both factors are T: T x T, not 2 T"),
        (256, "T squared, not to the fourth: gradients are no squares"),
        (1 / 16, "by so much they are multiplied; the question asks how many times "
         "smaller"),
        (1, "they do shrink: that is why the loss is multiplied by T^2"),
    ],
    otherwise="d KL / d logit = (q - p) / T with softened q and p: how do both factors "
    "change with T?",
)  # fmt: skip

q09_3 = number(
    "09_3",
    400,
    why="1,024 indices of 3 bits are 384 bytes, and one table of 8 bf16 values 16 "
    "more. In a weight 100 times as large the table is nothing; one for each of the 16 "
    "rows would take 256.",
    wrong=[
        (384, "the table is missing: 8 values of 2 bytes"),
        (392, "a bf16 value has 2 bytes: the table has 8 of them"),
        (416, "bf16, not fp32: 2 bytes a value"),
        (390, "3 bits tell 2^3 = 8 values apart, not 3"),
        (3_200, "that is bits: 8 of them a byte"),
        (3_088, "the indices are in bits, the table in bytes: divide the first by 8"),
        (1_040, "an index has 3 bits, packed: not a byte"),
        (640, "that is a table for each row: here one serves all 16"),
    ],
    otherwise="16 x 64 indices x 3 bits / 8, plus 2^3 values of 2 bytes.",
)

q09_4 = number(
    "09_4",
    10,
    why="6 is nearer to 6 than to 2, so the second cell is 6, 11, 13 with mean 10; the "
    "first becomes 1. The border moves from 4 to 5.5, no weight changes its cell: "
    "k-means has stopped, after one step.",
    wrong=[
        (1, "that is the smaller one: the other moves too"),
        (12, "6 belongs to the second cell as well: it is nearer to 6 than to 2"),
        (11, "a centre moves to the mean of its cell, not to its median"),
        (5.5, "that is the mean of all, and the new border: take one cell's"),
        (6, "it stands where it stood: move it to the mean of its cell"),
        (30, "that is the sum of its cell: divide by how many they are"),
        (13, "the mean of the cell, not its largest"),
        (9, "6 is no mean: which three weights are nearer to 6 than to 2?"),
    ],
    otherwise="which weights are nearer to 6 than to 2? Their mean.",
)

q09_5 = formula(
    "09_5",
    lambda k: 3 + 128 / k,
    tries=[(64,), (192,), (512,), (4096,)],
    why="a row has k indices of 3 bits and a table of 8 x 16 = 128 bits: 3 + 128 / k. "
    "int4-g64 takes 4 + 32 / 64 = 4.5 at every width, so the palette is the smaller "
    "one for k above 85: at 192 inputs 3.67 bits, at 64 it would be 5.",
    wrong=[
        (lambda k: 3, "the tables are missing: one for each row"),
        (lambda k: 3 + 16 / k, "a table has 16 bytes: that is 128 bits"),
        (lambda k: 3 + 48 / k, "3 bits tell 8 values apart: 8 x 16 bits a table"),
        (lambda k: 3 + 8 / k, "each of the 8 values of a table has 16 bits"),
        (lambda k: 3 + 256 / k, "a bf16 value has 16 bits, not 32"),
        (lambda k: 3 * k + 128, "those are the bits of a whole row: divide by its k "
         "weights"),
        (lambda k: 3 / 8 + 16 / k, "those are bytes: give bits"),
        (lambda k: 4.5, "that is int4-g64: what does the palette take?"),
    ],
    otherwise="bits of a row = k indices x 3 + 8 values x 16; divide by its k weights.",
)  # fmt: skip
