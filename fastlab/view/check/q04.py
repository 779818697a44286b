"""Exercises of notebook 04: what a score may claim, and what it may not."""

from __future__ import annotations

import math

from fastlab.view.check.exercise import formula, number
from fastlab.view.check.q02 import choice

q04_1 = choice(
    "04_1",
    "b",
    "abcd",
    why="a random row has sisters of its own hidden size among the rest, which tell "
    "nearly its time. You will ask for sizes that nobody measured, so the score must "
    "leave out every sister as well.",
    wrong=[
        ("a", "it costs fewer fits, but a score is not chosen for being cheap"),
        ("c", "whole sizes give larger errors, not smaller: look at the table above"),
        ("d", "random rows are not biased, they are easy: what do sisters give away?"),
    ],
    otherwise="ask which rows would still be there to predict a left-out one from.",
)

q04_2 = number(
    "04_2",
    1.25,
    why="predicted = 0.8 x measured, so measured = predicted / 0.8 = 1.25 x predicted. "
    "A bias is the one part of an error that a constant can mend.",
    wrong=[
        (1.2, "20 % of the measured time are more than 20 % of the predicted one"),
        (0.8, "that makes predictions faster still, and they are too fast already"),
        (0.2, "that is the share that is missing, not a factor"),
        (-0.2, "that is the bias itself: which factor undoes it?"),
        (20, "that is the bias in %: which factor undoes it?"),
        (5, "1 / 0.2 would mend a prediction that is 80 % too fast"),
    ],
    otherwise="write predicted = (1 + bias) x measured, and solve for measured.",
)

q04_3 = number(
    "04_3",
    12.1,
    why="the first reaches up to 10 x 1.1 = 11, the second down to B / 1.1: they part "
    "at B = 12.1. Closer ones show no difference; that does not prove them equal. "
    "Both have much of their error in common, so a predicted ratio is often better.",
    wrong=[
        (11, "there the first interval ends; the second begins below its own middle"),
        (12, "factors multiply: 1.1 x 1.1, not 1 + 0.1 + 0.1"),
        (11 / 0.9, "the lower end is B / 1.1, not 0.9 x B: see how they are made"),
        (10, "equal middles overlap entirely"),
        (1.21, "that is the factor between them: give milliseconds"),
    ],
    otherwise="set the upper end of the first equal to the lower end of the second.",
)

q04_4 = formula(
    "04_4",
    lambda a, b: (1 + a) / (1 + b) - 1,
    tries=[(0.10, -0.05), (0.2, 0.1), (-0.1, 0.25), (0.3, 0.05)],
    why="a common error cancels: twice 20 % too slow, and the speed-up is exact. "
    "Opposite errors add up, and a little more.",
    wrong=[
        (lambda a, b: a - b, "nearly, for small errors: divide the factors instead"),
        (lambda a, b: a + b, "equal errors must cancel: in a ratio they do not add"),
        (lambda a, b: (1 + a) * (1 + b) - 1, "that is a product's error: divide"),
        (lambda a, b: (1 + b) / (1 + a) - 1, "upside down: a belongs to the numerator"),
        (lambda a, b: (1 + a) / (1 + b), "that is the factor: its error is 1 less"),
        (math.hypot, "adding squares is for independent errors whose sign is unknown"),
    ],
    otherwise="predicted a = (1 + error) x measured a, the same for b; divide the two.",
)
