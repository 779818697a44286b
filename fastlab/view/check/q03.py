"""The exercises of notebook 03: intensity, ridge, the batch at it, launches."""

from __future__ import annotations

from fastlab.view.check.exercise import formula, number
from fastlab.view.check.q02 import choice

q03_1 = formula(
    "03_1",
    lambda rows, h, size: 8 * rows * h**2 / (size * (5 * rows * h + 4 * h**2)),
    tries=[(1, 1024, 2), (512, 1024, 2), (64, 256, 4), (4096, 4096, 1)],
    why="2 x rows x h x 4h FLOPs over the bytes of x, of W and of the result. Few "
    "rows: W rules, and the intensity is 2 x rows / size. Many rows: it levels off.",
    wrong=[
        (
            lambda rows, h, size: 4 * rows * h**2 / (size * (5 * rows * h + 4 * h**2)),
            "you counted MACs: FLOPs are twice that",
        ),
        (
            lambda rows, h, size: 8 * rows * h**2 / (5 * rows * h + 4 * h**2),
            "that is FLOPs per value: each value has `size` bytes",
        ),
        (
            lambda rows, h, size: 8 * rows * h**2 / (size * 4 * h**2),
            "you moved the weights only: x is read and the result written too: that "
            "matters once there are many rows",
        ),
        (
            lambda rows, h, size: 8 * rows * h**2 / (size * 5 * rows * h),
            "you left the weights out: h x 4h values are read, whatever the rows",
        ),
        (
            lambda rows, h, size: 8 * rows * h**2 / (size * (rows * h + 4 * h**2)),
            "the result goes back to memory too: rows x 4h values",
        ),
    ],
    otherwise="FLOPs: 2 x rows x inputs x outputs. Bytes: size x (values of x + values "
    "of W + values of the result). Divide.",
)

q03_2 = number(
    "03_2",
    312e12 / 2039e9,
    why="312e12 FLOP/s / 2039e9 B/s = 153 FLOPs in the time of one byte. Whatever does "
    "fewer for each byte waits for memory.",
    wrong=[
        (0.312 / 2.039, "1 TFLOP is 1000 GFLOP: bring both to the same prefix"),
        (2039e9 / 312e12, "upside down: those are bytes per FLOP"),
        (2039 / 312, "upside down, and with different prefixes"),
        (624e12 / 2039e9, "624 is the rate for sparse matrices, which ours are not"),
        (312e12 / 2039e9 / 2, "the 2 bytes of a value belong to the operation's "
         "intensity; the ridge is a property of the device"),
        (19.5e12 / 2039e9, "that is the ridge of fp32: bf16 has a roof of its own"),
    ],
    otherwise="where slope and flat roof meet: intensity x bandwidth = peak.",
)  # fmt: skip

q03_3 = number(
    "03_3",
    103,
    why="each weight costs 1 byte and 2 FLOPs a sequence: B sequences do 2 B FLOPs per "
    "byte, which is 206 at B = 103. With bf16 weights it would be 206.",
    wrong=[
        (206, "that holds for 2 bytes a weight: here each has 1"),
        (412, "412 is the ridge of int8 arithmetic, or that of heavier weights: here "
         "arithmetic stays bf16, and fewer bytes bring the knee nearer"),
        (51.5, "a weight of 1 byte does 2 FLOPs a sequence, not 4"),
        (1, "batch 1 does 2 FLOPs for each byte of such weights: the ridge is 206"),
        (13.9375, "that is the ridge of fp32 arithmetic: here the arithmetic is bf16"),
    ],
    otherwise="FLOPs per weight: 2 B. Bytes per weight: 1. At which B is their "
    "quotient 206?",
)  # fmt: skip

q03_4 = choice(
    "03_4",
    "c",
    "abcd",
    why="the host needs 10.4 ms to hand over the step, whatever the GPU does "
    "meanwhile. A graph is handed over once: then the 3.2 ms of memory show, and b "
    "starts to pay.",
    wrong=[
        ("a", "arithmetic takes 0.02 ms of the step: what does halving that save?"),
        ("b", "that halves 3.2 ms which already hide behind 10.4 ms of launches"),
        ("d", "faster memory shortens what already hides behind the launches"),
    ],
    otherwise="of arithmetic 0.02 ms, memory 3.2 ms and launches 10.4 ms the longest "
    "decides: which change shortens that one?",
)
