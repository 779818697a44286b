"""Time and peak memory of pruning a large model in place, by magnitude.

python benchmarks/pruning_memory.py [--model llama-3.1-8b] [--layers 0.5] [--ffn 0.5]

The weights are random numbers repeated: what they are changes neither. Peak memory is
the process's resident set on a CPU, told as a multiple of the dense model's bytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import torch

import fastlab as fl
from fastlab import machine
from fastlab.models import config_of
from fastlab.spec import PRESETS

BLOCK = 2**20  # random numbers that are repeated


def filled(shape: fl.ModelShape) -> Any:
    """A bf16 model of the shape, made without drawing each of its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    block = (torch.randn(BLOCK) * 0.02).to(torch.bfloat16)
    for weight in model.parameters():
        for part in weight.detach().view(-1).split(BLOCK):
            part.copy_(block[: len(part)])
    model.tie_weights()
    return model.eval().requires_grad_(False)


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Prune once and print one JSON line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--model", default="llama-3.1-8b")
    options.add_argument("--layers", type=float, default=0.5)
    options.add_argument("--ffn", type=float, default=0.5)
    given = options.parse_args()
    pruning = fl.Pruning(layers=given.layers, ffn=given.ffn)
    model = filled(PRESETS[given.model])
    dense = sum(w.numel() * w.element_size() for w in model.parameters())
    before, began = peak_bytes(), time.perf_counter()
    model = fl.prune(model, pruning)
    seconds, after = time.perf_counter() - began, peak_bytes()
    left = sum(w.numel() * w.element_size() for w in model.parameters())
    found = {
        "model": given.model,
        "pruning": pruning.to_dict(),
        "seconds": round(seconds, 1),
        "dense_gib": round(dense / 2**30, 2),
        "left_gib": round(left / 2**30, 2),
        "peak_over_dense": round(after / dense, 3),
        "before_over_dense": round(before / dense, 3),
        "device": machine.device_name("cpu"),
        "versions": machine.versions(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
