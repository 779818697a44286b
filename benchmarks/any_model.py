"""Models of types that no calibration saw: estimated and measured, beside llama.

python benchmarks/any_model.py [--layers 4] [--hidden 256] [--budget-s 1]: a prefill of
each type with random weights on this machine's calibrated device, one line each, then
the median error of llama's rows and of all others.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from statistics import median

import transformers

from fastlab.clock.calibrate import this_device
from fastlab.clock.measure import Bench
from fastlab.clock.timing import Settings
from fastlab.spec import ModelShape, Point, Recipe, Workload

TYPES = (
    *("mistral", "qwen2", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo"),
    *("olmo2", "granite", "glm", "glm4", "cohere", "cohere2", "stablelm", "starcoder2"),
    *("smollm3", "gpt_neox", "gptj", "opt", "bloom", "falcon", "mixtral", "qwen2_moe"),
    *("qwen3_moe", "olmoe", "deepseek_v3", "roberta", "electra", "modernbert", "t5"),
)
PROMPTS = (32, 128)


def errors_of(bench: Bench, model_type: str, layers: int, hidden: int) -> list[float]:
    """Relative errors of the estimates of one type, one of each prompt length."""
    shape = ModelShape(model_type, layers, hidden, vocab=8192)
    found = []
    for prompt_len in PROMPTS:
        point = Point(shape, Workload("prefill", 1, prompt_len), Recipe("fp32"))
        record = bench.measure(point)
        if record.status != "ok":
            print(f"{model_type:14s} {prompt_len:4d} {record.status}: {record.reason}")
            continue
        assert record.estimate and record.measured
        own, true = record.estimate.seconds, record.measured.seconds
        found.append(own / true - 1)
        line = f"{own * 1e3:7.2f} ms estimated, {true * 1e3:7.2f} measured"
        print(f"{model_type:14s} {prompt_len:4d} {line}, {found[-1]:+.0%}", flush=True)
    return found


def main() -> int:
    """Print the table; 1 where a row failed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--budget-s", type=float, default=1.0)
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    settings = Settings.for_device("cpu", budget_s=given.budget_s)
    bench = Bench.for_device("cpu", settings, this_device("cpu"))
    sizes = given.layers, given.hidden
    llama = errors_of(bench, "llama", *sizes)
    others = [e for name in TYPES for e in errors_of(bench, name, *sizes)]
    llama += errors_of(bench, "llama", *sizes)
    for name, errors in {"llama": llama, f"{len(TYPES)} others": others}.items():
        print(f"{name}: median error {median(map(abs, errors)):.1%} of {len(errors)}")
    return int(len(others) < len(TYPES) * len(PROMPTS))


if __name__ == "__main__":
    sys.exit(main())
