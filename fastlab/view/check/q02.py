"""The exercises of notebook 02, whose answers are letters and one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastlab.view.check.exercise import Exercise, number


def choice(name: str, solution: str, letters: Sequence[str], **words: Any) -> Exercise:
    """An exercise whose answer is one of some letters, in either case."""

    def read(answer: Any) -> tuple[float, ...]:
        if not isinstance(answer, str):
            kind = type(answer).__name__
            raise ValueError(f'this is of type {kind}: give a letter, as in "a"')
        letter = answer.strip().lower()
        if letter not in letters:
            raise ValueError(f"{answer!r} is none of {', '.join(letters)}: give one")
        return (float(letters.index(letter) + 1),)

    return Exercise(name, solution, read=read, **words)


q02_1 = choice(
    "02_1",
    "c",
    "abcd",
    why="without a synchronise the loop reads how long it takes to queue the work: "
    "1 ms instead of 20. The other three faults are real, and smaller: they move the "
    "number by some per cent, or once in ten calls.",
    wrong=[
        ("a", "time.time() steps by 238 ns at least: that is 0.02 % of a millisecond"),
        (
            "b",
            "a slow first call spoils one of ten numbers; what do the other nine say?",
        ),
        ("d", "the median of ten wrong numbers is still wrong: what do they measure?"),
    ],
    otherwise="ask of each repair by what factor it can change the printed number.",
)

q02_2 = number(
    "02_2",
    662,
    why="0.99^662 + 662 x 0.01 x 0.99^661 = 0.992 %, and with 661 samples it is still "
    "above 1 %. A p99 from fewer samples is a guess, and our clock leaves it empty.",
    wrong=[
        (100, "of 100 samples none lies beyond p99 in 37 % of the cases (0.99^100)"),
        (200, "200 samples have two beyond p99 on average, but in 40 % one or none"),
        (
            459,
            "459 make sure of one sample beyond; the rule wants two, one may be luck",
        ),
        (473, "those make sure at 95 %: the chance must be at most 1 %, not 5 %"),
        (64, "that is the answer for p90; beyond p99 lies one sample in a hundred"),
        (661, "nearly: with 661 the chance is still a little above 1 %"),
        (1000, "1000 are enough, but not the fewest: go down until it is above 1 %"),
    ],
    otherwise="count n up from 1 until 0.99**n + n * 0.01 * 0.99**(n - 1) is at most "
    "0.01; the first such n is the answer.",
)

q02_3 = choice(
    "02_3",
    "d",
    "abcd",
    why="10.1 to 10.4 ms fits both intervals, so this run shows no difference. That "
    "does not prove them equal: more samples, or rounds in turn, may tell them apart.",
    wrong=[
        ("a", "the medians differ, but each could lie anywhere in its interval"),
        ("b", "A was faster in this sample; 4 % is less than the intervals allow"),
        ("c", "equal would be a claim too: intervals this wide hide 5 % easily"),
    ],
    otherwise="look for a value that lies in both intervals.",
)
