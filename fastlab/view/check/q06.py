"""The exercises of notebook 06: stored bits, what pays when, and what quality says."""

from __future__ import annotations

from fastlab.view.check.exercise import formula, number
from fastlab.view.check.q02 import choice

q06_1 = number(
    "06_1",
    4.25,
    why="128 weights take 512 bits, and scale and zero point of their group 32 more: "
    "544 / 128 = 4.25. Groups of 32 would take 5 bits, and lose less.",
    wrong=[
        (4, "that leaves the scales and zero points out"),
        (4.125, "each group has a scale and a zero point: two numbers of 16 bits"),
        (0.53125, "that is bytes: give bits"),
        (36, "the 32 bits are shared by a whole group, not paid for each weight"),
        (4.5, "those are groups of 64: ours have 128 weights"),
        (5, "those are groups of 32: ours have 128 weights"),
    ],
    otherwise="bits of 128 weights, plus bits of one scale and one zero point, shared "
    "among the 128.",
)

q06_2 = formula(
    "06_2",
    lambda arithmetic, memory: max(arithmetic, memory) / max(arithmetic, memory / 2),
    tries=[(0.1, 4.0), (3.0, 4.0), (5.0, 4.0), (2.5, 4.0)],
    why="decode, memory far longer: ×2. Prefill, arithmetic longer: ×1, since the "
    "products are still done in 16 bit. In between: less than 2.",
    wrong=[
        (lambda a, m: 2.0, "only while memory is by far the longer: the weights "
         "shrink, the arithmetic does not"),
        (lambda a, m: (a + m) / (a + m / 2), "that is if nothing overlaps: on a roof "
         "the longer decides"),
        (lambda a, m: max(a, m / 2) / max(a, m), "upside down: old time over new time"),
        (lambda a, m: m / max(a, m / 2), "before, arithmetic may be the longer too"),
    ],
    otherwise="time = the longer of arithmetic and memory, before and after the bytes "
    "are halved.",
)  # fmt: skip

q06_3 = choice(
    "06_3",
    "b",
    "abcd",
    why="the products of many rows are bound by arithmetic, which stays 16 bit, and "
    "somebody has to unpack the weights first: extra work, nothing saved. Quantized "
    "activations (int8-dynamic, fp8-dynamic) multiply in 8 bit instead.",
    wrong=[
        ("a", "at 512 rows the weights are read once for all of them, as ever"),
        ("c", "then decoding would be slower too, and it is not"),
        ("d", "quality and time are measured apart: nothing is computed twice"),
    ],
    otherwise="which of arithmetic and memory bounds 512 rows, and which of them do "
    "int8 weights make cheaper?",
)

q06_4 = choice(
    "06_4",
    "c",
    "abcd",
    why="logits of random weights are nearly flat, so that noise changes the likeliest "
    "token easily, and a flat distribution has little KL to lose. Both must be asked "
    "of the trained model, on text like yours.",
    wrong=[
        ("a", "small KL of random weights says little: their logits are nearly flat"),
        ("b", "random argmax ties flip at a touch: a trained model is surer"),
        ("d", "the fp32 reference has the same random weights: it is not noise alone"),
    ],
    otherwise="what do logits of random weights look like, and which of the two "
    "figures does that mislead?",
)
