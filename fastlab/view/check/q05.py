"""Exercises of notebook 05: widths, and the affine price of depth."""

from __future__ import annotations

from fastlab.view.check.exercise import formula, number

q05_1 = number(
    "05_1",
    4.0,
    why="a linear layer has hidden x hidden weights (times a constant), and each "
    "weight costs 2 FLOPs per token: twice the width, four times the FLOPs.",
    wrong=[
        (2.0, "you doubled one side only: inputs and outputs of the layer both grow"),
        (8.0, "the number of tokens stays as it is: only two of m, n, k double"),
        (1.0, "the weights grow with hidden, and every weight is used for each token"),
        (16.0, "that is two doublings of the width, or hidden to the power of four"),
    ],
    otherwise="a linear layer does 2 x tokens x inputs x outputs FLOPs: which of the "
    "three double with the hidden size?",
)

q05_2 = formula(
    "05_2",
    lambda t2, t4: t4 + 2 * (t4 - t2),
    tries=[(3.0, 5.0), (10.0, 16.0), (1.0, 2.0), (7.0, 7.5)],
    why="two layers cost t4 - t2; eight layers are four more than four. What remains, "
    "t2 - (t4 - t2), is embedding and head: it is paid once at any depth.",
    wrong=[
        (lambda t2, t4: 4 * t2, "4 x t2 pays for embedding and head four times over"),
        (lambda t2, t4: 2 * t4, "2 x t4 pays for embedding and head twice"),
        (lambda t2, t4: 2 * t4 - t2, "that is six layers: t4 - t2 is the price of two"),
        (
            lambda t2, t4: t4 + 4 * (t4 - t2),
            "t4 - t2 is the price of two layers, not"
            " of one: eight layers are two such pairs away from four",
        ),
    ],
    otherwise="write down what two more layers cost, and how often that is still to "
    "come after four layers.",
)
