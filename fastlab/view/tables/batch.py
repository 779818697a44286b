"""For modules of the old house until they move: see fastlab.figures.roofline."""

from fastlab.figures.roofline import batched, batches_to

__all__ = ["batched", "batches_to"]
