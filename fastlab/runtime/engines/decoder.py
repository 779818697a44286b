"""Decoder: whole decode steps compiled as one graph, with the choice of the token."""

from __future__ import annotations

from fastlab.runtime.compiled import Step, compiled
from fastlab.runtime.decode import Decoder
from fastlab.runtime.engines.eager import Eager


class Steps(Eager):
    """Decode steps, `unroll` of them in one compiled call."""

    def steps(self, decoder: Decoder) -> Step:
        """Whole steps as one compiled function."""
        return compiled_steps(decoder, decoder.unroll)


def compiled_steps(decoder: Decoder, count: int) -> Step:
    """`count` steps as one compiled function."""
    steps = decoder.steps(decoder.forward_function(compiled=True), count)
    return compiled(steps, decoder.device)


ENGINE = Steps()
