"""The exercises of notebook 10: the article's ratio, the head, Amdahl, and 16 bit."""

from __future__ import annotations

from fastlab.view.check.exercise import formula, number
from fastlab.view.check.q02 import choice

q10_1 = number(
    "10_1",
    77.14,
    why="12·768² over 3·512² is 9, times 8 is 72, times 1.875 / 1.75 is 77.1. The 143 "
    "that the article's printed numbers give needs a backward pass that inference does "
    "not have, and two slips that nearly cancel.",
    wrong=[
        (142.857, "that is from the printed numbers: work the formula out instead"),
        (72, "the last step is missing: 1.875e7 becomes 1.75e7"),
        (9, "that is the cut alone: 16 bit and the last step come on top"),
        (9.643, "16 bit is missing: the article divides by 8"),
        (154.28, "the backward pass is counted: inference has none"),
        (51.43, "the width counts twice: H × H"),
        (4.5, "L and H: 12 / 3 is 4, and (768 / 512) squared is 2.25"),
    ],
    otherwise="(12 · 768²) / (3 · 512²), times 8, times 1.875 / 1.75; n cancels.",
)

q10_2 = number(
    "10_2",
    0.6716,
    why="2·1024·512·50,257 is 5.27·10¹⁰, of 7.85·10¹⁰ in all: two thirds of the pruned "
    "model is a part that nobody pruned. Before, it was 27 %.",
    wrong=[
        (67.16, "that is per cent: give the share, between 0 and 1"),
        (0.2710, "that is the dense model's: 12 layers of 768"),
        (0.3284, "that is the share of the layers"),
        (2.045, "that is head over layers: divide by all of it"),
        (0.7322, "attention is missing below: 4 n² H a layer"),
        (5.27e10, "those are the FLOPs: divide by all of them"),
    ],
    otherwise="2 n H V over 3 · (24 n H² + 4 n² H) + 2 n H V, with n = 1,024, H = 512, "
    "V = 50,257.",
)

q10_3 = formula(
    "10_3",
    lambda share, factor: 1 / (1 - share + share / factor),
    tries=[(0.5, 2.0), (0.9, 10.0), (0.8, 8.0), (0.25, 1000.0)],
    why="what was not made faster still takes its time: with a quarter of the time cut "
    "a thousandfold, the whole is ×1.33. So ×8 of one part is never ×8 of the call.",
    wrong=[
        (lambda s, k: k, "only if the step touches all of the time: share = 1"),
        (lambda s, k: s * k, "times add, speed-ups do not: what takes (1 - share)?"),
        (lambda s, k: 1 - s + s * k, "that averages speeds: add times instead"),
        (lambda s, k: 1 - s + s / k, "that is the time left: turn it over"),
        (lambda s, k: 1 / (1 - s), "that is the limit of an infinite factor"),
    ],
    otherwise="time after = (1 - share) + share / factor, if the time before is 1.",
)  # fmt: skip

q10_4 = choice(
    "10_4",
    "b",
    "abcd",
    why="bytes halve, and matrix units may do more products a second in 16 bit. How "
    "much time that saves depends on the device and on what the call waited for: it is "
    "measured, not divided.",
    wrong=[
        ("a", "a product stays a product, however many bits its numbers have"),
        ("c", "32 bits over 16 is 2, and it is bytes: operations do not change"),
        ("d", "bf16 units exist on CPUs too; the rows above show what they give"),
    ],
    otherwise="which of operations, bytes and rate changes with the width of a number?",
)
