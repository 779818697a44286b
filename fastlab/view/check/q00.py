"""The exercises of notebook 00."""

from __future__ import annotations

from fastlab.view.check.exercise import number

q00_1 = number(
    "00_1",
    1.25,
    why="10 / 8 = 1.25, also written ×1.25: the clock said a quarter more.",
    wrong=[
        (0.8, "that is estimate / clock: the ratio puts the measured time on top"),
        (2.0, "2 ms is the difference; a ratio divides, so that it has no unit"),
        (25.0, "25 is the surplus in per cent; the ratio counts the whole"),
        (0.25, "that is the surplus alone; the ratio counts the whole: 1 + surplus"),
    ],
    otherwise="divide the measured milliseconds by the estimated ones.",
)

q00_2 = number(
    "00_2",
    200.0,
    why="12 GFLOP / 60 GFLOP per second = 0.2 s = 200 ms. It is a lower bound: memory "
    "traffic and launches come on top.",
    wrong=[
        (0.2, "that is in seconds; the question asks for milliseconds"),
        (5.0, "that is 60 / 12, how many such calls fit into a second"),
        (720.0, "you multiplied: work divided by speed is time"),
        (100.0, "FLOPs are counted as 2 for each multiply-add already: do not halve"),
        (400.0, "FLOPs are counted as 2 for each multiply-add already: do not double"),
    ],
    otherwise="time is work divided by speed; mind the unit, 1 s = 1000 ms.",
)
