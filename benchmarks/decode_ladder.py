"""The ladder of fast decoding on one shape, rung by rung, measured in one run.

    python benchmarks/decode_ladder.py --model cpu [--device cpu] [--out results/ladder]

Printed for each rung: tokens per second, memory bandwidth utilization against the
datasheet and against a copy in the same run, the ratio over transformers' eager
decoding and over the fastest rung that is not quantized, and the seconds it took to
compile. Rungs that cannot run here say why. The rows "generate" time a whole generation
of 64 tokens, transformers' own beside ours. Weights are random; rows go to --out, and
what is there already is not measured again. The first of --precisions has every rung.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from fastlab import machine
from fastlab.clock.measure import Bench
from fastlab.clock.timing import Settings
from fastlab.figures.decode import ladder_points, rung_of, rungs
from fastlab.rows import table
from fastlab.spec import Point
from fastlab.spec.formats import FORMATS
from fastlab.spec.grids import flat
from fastlab.sweeps.run import measured, rows_of, terminal_progress
from fastlab.sweeps.store import Store

MODELS = {"cpu": "24x896"} | {
    name: name for name in ("llama-3.1-8b", "llama-3.2-1b", "qwen3-0.6b", "tiny-llama")
}
PRECISIONS = ("bf16", "fp32", "int8", "int4-g64")
PROMPT = 128


def points(model: str, precisions: Sequence[str] = PRECISIONS) -> dict[str, Point]:
    """The point of each rung by its name, which tells the precision where not bf16."""
    found = ladder_points(MODELS[model], precisions, prompt_len=PROMPT)
    return {_name(p.recipe.precision, rung_of(flat(p))): p for p in found}


def _name(precision: str, rung: str) -> str:
    return rung if precision == PRECISIONS[0] else f"{precision}, {rung}"


def ladder(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each rung from the table of their records, numbers rounded."""
    table = rungs(rows)
    table["rung"] = [*map(_name, table["precision"], table["rung"])]
    table = table.rename(columns={"speedup": "x eager", "over_dense": "x fastest"})
    names = ["rung", "precision", "measured_ms", "tokens_per_s", "mbu", "mbu_copy"]
    names += ["x eager", "x fastest", "compile_s", "flags", "status", "reason"]
    digits = {"measured_ms": 2, "tokens_per_s": 1, "compile_s": 1}
    digits |= dict.fromkeys(("mbu", "mbu_copy", "x eager", "x fastest"), 2)
    return table[names].round(digits)


def main() -> int:
    """Measure the ladder and print it."""
    options = _options()
    kind = machine.torch_device(options.device)
    settings = Settings.for_device(kind, budget_s=options.budget_s, n_min=5)
    bench, store = Bench.for_device(kind, settings), Store(options.out)
    asked = points(options.model, options.precisions)
    if options.only:
        asked = {n: p for n, p in asked.items() if any(o in n for o in options.only)}
    for _ in measured(list(asked.values()), store, bench, terminal_progress):
        pass
    rows = table(rows_of(asked.values(), store, bench), store.envs())
    print(f"{options.model} on {bench.name}, batch 1, {PROMPT} tokens cached")
    print(ladder(rows).to_string(index=False, na_rep="-"))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="cpu")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="results/ladder")
    parser.add_argument("--budget-s", type=float, default=4.0)
    parser.add_argument("--precisions", nargs="+", choices=FORMATS, default=PRECISIONS)
    parser.add_argument("--only", nargs="*", help="rungs whose names hold one of these")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
