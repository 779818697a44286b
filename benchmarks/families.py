"""What works in which family of transformers: each is tried at a tiny size.

    python benchmarks/families.py [TYPE ...]

A line of data/families.csv for each type that it has none of yet, with "yes" or the
reason: counted (parameters, and FLOPs of prefill and decode, are those that torch
counts), measured (a prefill runs), quantized (int8 logits near the dense ones), decoded
(the tokens of fl.Decoder are those of generate), pruned (half the layers, half the
FFN). Takes seconds a type; one that is stopped goes on when called again.
"""

from __future__ import annotations

import csv
import datetime
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import fastlab as fl
from fastlab.calls import prepare, prompt_ids
from fastlab.clock.counters import torch_flops, torch_parameters
from fastlab.cost.operations import total
from fastlab.models import numerics
from fastlab.spec import GRID_FIELDS, Point, Workload, point_of
from fastlab.spec.checks import canonical

FILE = Path(__file__).parents[1] / "data" / "families.csv"
TYPES = """
llama qwen2 qwen3 mistral gemma2 gemma3_text mixtral qwen3_moe gpt_oss deepseek_v3 gpt2
bert roberta xlm-roberta distilbert mpnet modernbert deberta-v2 electra albert t5 bart
phi3 phi opt gpt_neox bloom falcon gptj starcoder2 qwen3_next qwen3_5_text gemma
gemma4_text deepseek_v2 llama4_text ministral3 qwen2_moe phimoe smollm3 olmo2 olmo3
olmoe granite granitemoe glm glm4 glm4_moe cohere cohere2 stablelm exaone4 ernie4_5
gpt_neo codegen mpt mamba mamba2 jamba lfm2 falcon_h1 nemotron olmo pegasus marian mt5
qwen3_5_moe_text nemotron_h
"""
SIZES: dict[str, Any] = {"layers": 4, "hidden": 64, "vocab": 512, "prompt_len": 12}
GIVEN: dict[str, dict[str, Any]] = {  # where a type's defaults make nothing so small
    "deepseek_v2": {"num_experts_per_tok": 6},
    "codegen": {"hidden": 1024},
    "mamba2": {"heads": 2, "n_groups": 1},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
}
NEW = 6  # tokens
WORDS = 160  # characters of a reason
LOST = 0.1  # of the dense logits' spread: what int8 may change
TRIED = ("counted", "measured", "quantized", "decoded", "pruned")
COLUMNS = ("model_type", "kind", *TRIED, "transformers", "torch", "date")


def family(kind: str) -> dict[str, str]:
    """The line of one type."""
    line = dict.fromkeys(COLUMNS, "") | {"model_type": kind, "date": today()}
    line |= {name: version(name) for name in ("transformers", "torch")}
    try:
        point = question(kind)
    except ValueError as error:
        return line | {"counted": one_line(error)}
    line["kind"] = point.shape.kind
    for name in TRIED:
        line[name] = answer(globals()[name], point)
    return line


def question(kind: str) -> Point:
    """The prefill that is tried."""
    given = GIVEN.get(kind, {})
    sizes = {name: n for name, n in given.items() if name in GRID_FIELDS}
    point = point_of(family=kind, **SIZES | sizes)
    if sizes == given:
        return point
    config = json.loads(point.shape.config) | given
    config = {name: n for name, n in config.items() if name not in sizes}
    return replace(point, shape=replace(point.shape, config=canonical(config)))


def today() -> str:
    """The date, as in the other data."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def one_line(error: Exception) -> str:
    """The beginning of what an error says."""
    return " ".join(str(error).split())[:WORDS]


def answer(trial: Callable[[Point], str | None], point: Point) -> str:
    """What a trial says, "yes" if nothing; else the error that stopped it."""
    try:
        return trial(point) or "yes"
    except ValueError as error:
        return one_line(error)
    except Exception as error:  # what should have been refused by name
        return f"fails: {type(error).__name__}: {one_line(error)}"


def counted(point: Point) -> str | None:
    """The counts of a prefill and a decode step against torch's.

    Attention is in the open, as torch's counter needs it on a CPU.
    """
    point = replace(point, recipe=replace(point.recipe, attention="eager"))
    calls = [point]
    if point.shape.kind != "encoder":
        work = Workload("decode", prompt_len=point.workload.prompt_len)
        calls.append(replace(point, workload=work))
    counts = {"parameters": (fl.parameters(point.shape), torch_parameters(point))}
    for call in calls:
        both = total(call, "flops"), torch_flops(call, "cpu")
        counts[f"FLOPs of {call.workload.phase}"] = both
    apart = [f"{n} {a:,}, by torch {b:,}" for n, (a, b) in counts.items() if a != b]
    return "; ".join(apart) or None


def logits(model: Any, point: Point) -> torch.Tensor:
    """Those of the prefill."""
    with numerics("fp32"):
        found: torch.Tensor = prepare(model, point, "cpu").run()
    return found


def measured(point: Point) -> str | None:
    """A prefill of finite logits."""
    finite = bool(torch.isfinite(logits(fl.build(point), point)).all())
    return None if finite else "its logits are not finite"


def quantized(point: Point) -> str | None:
    """int8 weights against dense ones."""
    dense = logits(fl.build(point), point)
    packed = logits(fl.quantize(fl.build(point), "int8"), point)
    lost = float((packed - dense).std() / dense.std())
    return None if lost < LOST else f"int8 changes the logits by {lost:.0%}"


def decoded(point: Point) -> str | None:
    """Greedy tokens of the static cache against those of transformers."""
    model, ids = fl.build(point), prompt_ids(point, "cpu")
    for weight in model.parameters():  # so that the past decides the next token
        weight.mul_(5 if weight.ndim > 1 else 1)
    decoder = fl.Decoder(model, 1, 32, runtime="eager")
    ends = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), **ends)
    same = torch.equal(decoder.generate(ids, NEW), theirs[:, ids.shape[1] :])
    return None if same else "its tokens are not those of generate"


def pruned(point: Point) -> str | None:
    """Half of the layers, then half of the FFN, each cut and run."""
    said = []
    for axis in ("layers", "ffn"):
        try:
            step = 8 if axis == "ffn" else 1  # as grouped products of experts want
            pruning = fl.Pruning(**{axis: 0.5}, multiple=step)
            small = fl.prune(fl.build(point), pruning)
            logits(small, point)
            said.append(f"{axis}: yes")
        except ValueError as error:
            said.append(f"{axis}: {one_line(error)}")
    return None if len(said) == "; ".join(said).count(": yes") else "; ".join(said)


def main() -> None:
    """Try the types that have no line yet, those named or all; each is written at once.

    A type without its name in transformers is left out.
    """
    from transformers import CONFIG_MAPPING, logging

    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    known = FILE.read_text().splitlines() if FILE.exists() else []
    have = {line.partition(",")[0] for line in known}
    with FILE.open("a", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not known:
            rows.writeheader()
        for kind in sys.argv[1:] or TYPES.split():
            if kind not in have and kind in CONFIG_MAPPING:
                rows.writerow(line := family(kind))
                file.flush()
                print(*line.values(), sep=" | ")


if __name__ == "__main__":
    main()
