"""The exercises and their checks: fl.check.q05_1(answer) says what is right or wrong.

Adding an exercise is adding one `number`, `formula` or `choice` to a notebook's module:
its solution, and its typical wrong answers with the hint that each deserves. This is
the only copy.
"""

from fastlab.view.check.exercise import NOT_ATTEMPTED, Exercise, Verdict
from fastlab.view.check.q00 import q00_1, q00_2
from fastlab.view.check.q01 import q01_1, q01_2, q01_3
from fastlab.view.check.q02 import q02_1, q02_2, q02_3
from fastlab.view.check.q03 import q03_1, q03_2, q03_3, q03_4
from fastlab.view.check.q04 import q04_1, q04_2, q04_3, q04_4
from fastlab.view.check.q05 import q05_1, q05_2
from fastlab.view.check.q06 import q06_1, q06_2, q06_3, q06_4
from fastlab.view.check.q07 import q07_1, q07_2, q07_3, q07_4
from fastlab.view.check.q08 import q08_1, q08_2, q08_3, q08_4
from fastlab.view.check.q09 import q09_1, q09_2, q09_3, q09_4, q09_5
from fastlab.view.check.q10 import q10_1, q10_2, q10_3, q10_4

_ALL = (
    *(q00_1, q00_2, q01_1, q01_2, q01_3),
    *(q03_1, q03_2, q03_3, q03_4),
    *(q02_1, q02_2, q02_3, q04_1, q04_2, q04_3, q04_4),
    *(q05_1, q05_2, q06_1, q06_2, q06_3, q06_4),
    *(q07_1, q07_2, q07_3, q07_4),
    *(q08_1, q08_2, q08_3, q08_4),
    *(q10_1, q10_2, q10_3, q10_4),
    *(q09_1, q09_2, q09_3, q09_4, q09_5),
)
EXERCISES = {exercise.name: exercise for exercise in _ALL}

__all__ = ["EXERCISES", "NOT_ATTEMPTED", "Exercise", "Verdict"]
