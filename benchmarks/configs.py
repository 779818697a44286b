"""Real configs: what fastlab counts beside what transformers does on the meta device.

python benchmarks/configs.py FOLDER [NAME ...]: of each FOLDER/NAME/config.json a
line: parameters, FLOPs of a prefill and of a decode step, bytes of the KV cache. Exits
1 where a model that counts as exact differs.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from fastlab.cost.memory import kv_cache_bytes, parameters
from fastlab.cost.operations import total
from fastlab.spec import ModelShape, Point, Recipe, Workload
from fastlab.spec.configs import read_config
from fastlab.spec.kept import program_of
from fastlab.tracing.caches import cache_name
from fastlab.tracing.configs import class_of, text_config

PROMPT = 160  # positions: more than one chunk of linear attention


def prompt_len(shape: ModelShape) -> int:
    """PROMPT, or what a model has room for beside one new token."""
    return min(PROMPT, shape.max_positions - 1)


def counted(shape: ModelShape) -> dict[str, int]:
    """What fastlab says of a shape in bf16."""
    found = {"parameters": parameters(shape)}
    phases = ["prefill"] if shape.kind == "encoder" else ["prefill", "decode"]
    for phase in phases:
        point = Point(
            shape,
            Workload(phase, 1, prompt_len(shape)),
            Recipe("bf16"),
        )
        found[phase] = total(point, "flops")
        if len(phases) == 2 and phase == "prefill":
            found["kv"] = kv_cache_bytes(point)
    return found


def reference(config: Any, shape: ModelShape) -> dict[str, int]:
    """What the class of the config does on the meta device, all layers of it."""
    model_class, kind = class_of(config), shape.kind
    if model_class.config_class is not type(config):
        config = text_config(config)
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=torch.bfloat16).eval()
    for part in {id(c): c for c in (model.config, text_config(model.config))}.values():
        part._experts_implementation_internal = "batched_mm"
    found = {"parameters": sum(p.numel() for p in model.parameters())}
    ids = torch.zeros(
        1, min(PROMPT, shape.max_positions - 1), dtype=torch.long, device="meta"
    )
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        if kind == "encoder":
            model(ids)
        else:
            cache = model(ids, use_cache=True)[(name := cache_name(model))]
    found["prefill"] = flops.get_total_flops()
    if kind == "encoder":
        return found
    found["kv"] = sum(
        x.nbytes
        for layer in cache.layers
        for value in vars(layer).values()
        for x in (value.values() if isinstance(value, dict) else [value])
        if isinstance(x, torch.Tensor) and x.dim()
    )
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model(ids[:, :1], use_cache=True, **{name: cache})
    found["decode"] = flops.get_total_flops()
    return found


def main() -> int:
    """Print the table; 1 where something differs that should not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("names", nargs="*")
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    wrong = refused = 0
    names = given.names or sorted(
        p.parent.name for p in given.folder.glob("*/config.json")
    )
    for name in names:
        began = time.perf_counter()
        try:
            shape = ModelShape.from_config(given.folder / name)
            own = counted(shape)
        except Exception as error:
            refused += 1
            print(
                f"{name:26s} refused: {type(error).__name__} {str(error)[:150]}",
                flush=True,
            )
            continue
        took, word = time.perf_counter() - began, ""
        if shape.config and (why := program_of(shape)["approximate"]):
            word = f"approximate: {why}"
        try:
            config = read_config(given.folder / name)
            true = reference(config, shape)
        except Exception as error:
            line = f"no reference: {type(error).__name__} {str(error)[:90]}"
            print(f"{name:26s} {took:4.1f} s {shape.kind} {line} {word}", flush=True)
            continue
        off = {k: f"{own.get(k, 0)} / {v}" for k, v in true.items() if own.get(k) != v}
        wrong += bool(off) and not word
        print(f"{name:26s} {took:4.1f} s {off or 'exact'} {word}", flush=True)
    print(f"{len(names)} configs, {refused} refused, {wrong} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
