"""One decoder made and run in this process: seconds and resident memory of each stage.

    python benchmarks/decoder_start.py int8 [--scope all] [--model 24x896] [--steps 20]

A line of JSON: what was resident before anything was built, the bytes stored, what
building and compiling took and left, the peak, and the median step. Run it twice for
the first start and the second; `--fresh` compiles into an empty folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process that are in memory now; VmHWM: at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(field))
    return int(found.split()[1]) * 1024


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """What one process takes from its start to its steps."""
    start = time.perf_counter()
    import torch
    import transformers

    from fastlab.figures.decode import ladder_points
    from fastlab.runtime.engines import prepare
    from fastlab.shrink.parts import stored_weight_bytes
    from fastlab.shrink.recipes import build
    from fastlab.spec.recipe import Recipe

    torch.set_num_threads(options.threads)
    point = ladder_points(options.model, ("bf16",), prompt_len=options.prompt)[0]
    fields = {"scope": options.scope} if options.scope else {}
    recipe = Recipe(
        options.precision, cache="static", runtime=options.runtime, **fields
    )
    point = replace(point, recipe=recipe)
    import transformers.models.llama.modeling_llama  # noqa: F401

    found: dict[str, Any] = {"precision": options.precision, "scope": options.scope}
    found |= {"imports_s": time.perf_counter() - start, "imports_mb": resident()}
    start = time.perf_counter()
    model = build(point)
    found |= {"build_s": time.perf_counter() - start, "built_mb": resident()}
    found["build_peak_mb"] = resident("VmHWM")
    found["stored_mb"] = stored_weight_bytes(model)
    start = time.perf_counter()
    with torch.inference_mode():
        call = prepare(model, point)
        found |= {"start_s": time.perf_counter() - start, "ready_mb": resident()}
        taken = []
        for _ in range(options.steps):
            start = time.perf_counter()
            call.run()
            call.reset()
            taken.append(time.perf_counter() - start)
    found["step_ms"] = statistics.median(taken) * 1e3
    found["peak_mb"] = resident("VmHWM")
    found["cache"] = dict(torch._dynamo.utils.counters["inductor"])
    return {n: v / 1e6 if n.endswith("_mb") else v for n, v in found.items()}


def main() -> int:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("precision", nargs="?", default="bf16")
    parser.add_argument("--scope", default="")
    parser.add_argument("--model", default="24x896")
    parser.add_argument("--runtime", default="decoder")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as empty:
        if options.fresh:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        print(json.dumps(measured(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
