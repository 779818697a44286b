"""Graph: compiled decode steps captured in one CUDA graph, which one launch replays."""

from __future__ import annotations

import torch

from fastlab.runtime.compiled import Step, captured
from fastlab.runtime.decode import Decoder
from fastlab.runtime.engines.decoder import compiled_steps
from fastlab.runtime.engines.eager import Eager


class Graph(Eager):
    """Decode steps, `unroll` of them in one graph."""

    def steps(self, decoder: Decoder) -> Step:
        """A replay of steps that were compiled one by one, and run before."""
        step = compiled_steps(decoder, 1)
        with torch.inference_mode(), decoder.attending():
            decoder.rewind(0)
            step()
            return captured(step, decoder.unroll)


ENGINE = Graph()
