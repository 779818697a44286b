"""The ladder of fast decoding on one shape, rung by rung, measured in one run.

    python benchmarks/decode_ladder.py --model cpu [--device cpu] [--out results/ladder]

Printed for each rung: tokens per second, memory bandwidth utilization against the
datasheet and against a copy in the same run, the ratio over transformers' eager
decoding and over the fastest rung that is not quantized, and the seconds it took to
compile. Rungs that cannot run here say why. The rows "generate" time a whole generation
of 64 tokens, transformers' own beside ours. Weights are random; rows go to --out, and
what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import pandas as pd

from fastlab import machine
from fastlab.clock.measure import Bench
from fastlab.clock.timing import Settings
from fastlab.spec import Point, point_of
from fastlab.sweeps.run import measured, rows_of, terminal_progress
from fastlab.sweeps.store import Store
from fastlab.sweeps.table import table

CPU_SHAPE = {
    **{"family": "llama", "layers": 24, "hidden": 896, "heads": 14, "kv_heads": 2},
    **{"head_dim": 64, "ffn": 4864, "vocab": 151_936, "tied": False},
}
MODELS: dict[str, dict[str, Any]] = {
    "cpu": CPU_SHAPE,
    **{n: {"model": n} for n in ("llama-3.1-8b", "llama-3.2-1b", "qwen3-0.6b")},
}
PROMPT, GENERATED = 128, {"phase": "generate", "new_tokens": 64}
QUANTIZED = {"int8": "head", "int4-g64": "head"}  # precision: what it quantizes
EAGER = "dynamic"

# Rung: what it adds to the point of one bf16 decode step after PROMPT tokens.
UNQUANTIZED: dict[str, dict[str, Any]] = {
    "no cache": {"cache": "none"},
    EAGER: {"cache": "dynamic"},
    "static": {"cache": "static"},
    "compiled": {"cache": "static", "runtime": "compile"},
    "our decoder": {"runtime": "decoder"},
    "our graph": {"runtime": "graph"},
    "dynamic fp32": {"cache": "dynamic", "precision": "fp32"},
    "our decoder fp32": {"runtime": "decoder", "precision": "fp32"},
    "our decoder, int8 KV": {"runtime": "decoder", "cache": "static-int8"},
}
WHOLE: dict[str, dict[str, Any]] = {
    "generate, transformers": {**GENERATED, "runtime": "transformers"},
    "generate, our decoder": {**GENERATED, "runtime": "decoder"},
    "generate, our graph": {**GENERATED, "runtime": "graph"},
    "generate, our graph x4": {**GENERATED, "runtime": "graph", "unroll": 4},
}
RUNTIMES = {"eager": "static", "our decoder": "static", "our graph": "static"}


def rungs() -> dict[str, dict[str, Any]]:
    """Every rung by its name, quantized ones eager and compiled."""
    quantized = {
        f"{precision}, {name}": {
            **{"precision": precision, "scope": scope, "cache": cache},
            "runtime": name.removeprefix("our "),
        }
        for precision, scope in QUANTIZED.items()
        for name, cache in RUNTIMES.items()
    }
    return UNQUANTIZED | WHOLE | quantized


def points(model: str) -> dict[str, Point]:
    """The point of each rung."""
    common = {"prompt_len": PROMPT, "phase": "decode", "precision": "bf16"}
    shape = MODELS[model]
    return {n: point_of(**shape, **{**common, **over}) for n, over in rungs().items()}


def ladder(asked: dict[str, Point], rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each rung from the table of their records."""
    rows = rows.assign(rung=list(asked))
    speed = rows.set_index("rung")["tokens_per_s"]
    plain = speed[[name for name in UNQUANTIZED if name in speed.index]].max()
    rows["x eager"] = rows["tokens_per_s"] / speed.get(EAGER, float("nan"))
    rows["x fastest"] = rows["tokens_per_s"] / plain
    names = ["rung", "precision", "measured_ms", "tokens_per_s", "mbu", "mbu_copy"]
    names += ["x eager", "x fastest", "compile_s", "flags", "status", "reason"]
    digits = {"measured_ms": 2, "tokens_per_s": 1, "compile_s": 1}
    digits |= dict.fromkeys(("mbu", "mbu_copy", "x eager", "x fastest"), 2)
    return rows[names].round(digits)


def main() -> int:
    """Measure the ladder and print it."""
    options = _options()
    kind = machine.torch_device(options.device)
    settings = Settings.for_device(kind, budget_s=options.budget_s, n_min=5)
    bench, store = Bench.here(kind, settings), Store(options.out)
    asked = points(options.model)
    if options.only:
        asked = {n: p for n, p in asked.items() if any(o in n for o in options.only)}
    for _ in measured(list(asked.values()), store, bench, terminal_progress):
        pass
    rows = table(rows_of(asked.values(), store, bench), store.envs())
    print(f"{options.model} on {bench.name}, batch 1, {PROMPT} tokens cached")
    print(ladder(asked, rows).to_string(index=False, na_rep="-"))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="cpu")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="results/ladder")
    parser.add_argument("--budget-s", type=float, default=4.0)
    parser.add_argument("--only", nargs="*", help="rungs whose names hold one of these")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
