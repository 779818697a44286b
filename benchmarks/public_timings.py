"""Public GPU timings, read from a folder outside the repository: kernels, whole calls.

The folder's README says what its tables hold; those that are missing are left out.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastlab.cost import ops
from fastlab.cost.ops import Operation
from fastlab.latency.prior import as_served
from fastlab.latency.profile import Profile
from fastlab.latency.samples import Work, work
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import Recipe
from fastlab.spec.shape import PRESETS, ModelShape

AIC = ("ms_sglang", "ms_trtllm", "ms_vllm")
DTYPES = {"bf16": ("bf16", 2), "fp8": ("fp8-dynamic", 1)}
LAYER_STEP = 32
FP16 = Recipe("fp16")
EVENTS_S = 8e-6  # that events and launch add: 6 to 12 us, as NeuSight's timer does it
PASSES = {"add": 3, "mul": 3, "div": 3, "pow": 3}  # of two tensors; of one, 2
WIDE: dict[str, Any] = {"heads": 32, "head_dim": 128, "vocab": 32000}
SERVED = {  # of LLM-Inference-Bench
    "meta-llama/Llama-2-7b-hf": ModelShape("llama", 32, 4096, ffn=11008, **WIDE),
    "mistralai/Mistral-7B-v0.1": ModelShape(
        "llama", 32, 4096, kv_heads=8, ffn=14336, **WIDE
    ),
    "meta-llama/Meta-Llama-3-8B": PRESETS["llama-3.1-8b"],
    "Qwen/Qwen2-7B": ModelShape(
        "llama", 28, 3584, heads=28, kv_heads=4, head_dim=128, ffn=18944, vocab=152064
    ),
}
ENGINES = {
    **{"vLLM": "vllm", "TensorRT-LLM": "tensorrt-llm"},
    **{"Deepspeed-MII": "deepspeed-mii"},
}
TRAINED = {  # of NeuSight
    "bert_large": ModelShape("bert", 24, 1024, vocab=2),  # classifies sequences
    "gpt2_large": ModelShape("gpt2", 36, 1280),
    "gpt3_xl": ModelShape("gpt2", 24, 3072, max_positions=2048),
    "gpt3_27": ModelShape("gpt2", 32, 2560, heads=32, max_positions=2048),
    "opt_13": ModelShape("gpt2", 24, 2048, vocab=50272, max_positions=2048),
}


Levels = tuple[tuple[float, float], ...]


class Kernels(NamedTuple):
    """Timed kernels of one class and precision on one GPU; each [n] but others."""

    table: str
    gpu: str
    kind: str
    precision: str
    work: Work
    read: np.ndarray  # bytes that each repetition comes back to
    seconds: np.ndarray
    others: np.ndarray  # [n, software] seconds of each software, NaN where it has none
    events_s: float = 0.0  # in all of them, of events and launch around one call

    def seen(self, levels: Levels) -> Work:
        """The work, with what the GPU's cache holds at the rate of the cache."""
        if not levels:
            return self.work
        profile = Profile((), levels={self.precision: levels})
        slower = profile.slowdown(self.precision, np.maximum(self.read, 1.0))
        return self.work._replace(bytes=self.work.bytes + (slower - 1) * self.read)


class Whole(NamedTuple):
    """A timed call as points that are added up, each so many times."""

    table: str
    gpu: str
    software: str
    parts: tuple[tuple[Point, int], ...]
    seconds: float
    engine: str = ""


def read(folder: Path) -> tuple[list[Kernels], list[Whole]]:
    """All that the folder's tables hold; FileNotFoundError where it holds none."""
    tables = {path.name.split(".")[0]: path for path in sorted(folder.glob("*.csv*"))}
    known = {name: tables[name] for name in (*KERNELS, *WHOLES) if name in tables}
    if not known:
        wanted = ", ".join((*KERNELS, *WHOLES))
        raise FileNotFoundError(f"{folder} has none of these tables: {wanted}")
    kernels, wholes = [], []
    for name, path in known.items():
        rows = lines(path)
        if name in KERNELS:
            kernels += [one for one in KERNELS[name](name, rows) if len(one.seconds)]
        else:
            wholes += list(WHOLES[name](name, rows))
    return kernels, wholes


def lines(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, which may be packed."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _groups(
    rows: list[dict[str, str]], *names: str
) -> Iterator[tuple[tuple[str, ...], list[dict[str, str]]]]:
    """The rows of each combination of values in the columns."""
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    yield from found.items()


def _numbers(rows: list[dict[str, str]], *names: str) -> Any:
    """[columns, rows] as floats, NaN where a cell is empty."""
    return np.array([[float(row[n] or "nan") for row in rows] for n in names])


def _kernels(
    name: str, gpu: str, kind: str, precision: str, op: Operation, times: np.ndarray
) -> Kernels:
    """op: with arrays for numbers; times [software, n] in ms."""
    n = times.shape[1]
    costs = (op.flops_causal, op.bytes, op.launches, op.kv_read_bytes)
    flops, moved, launches, read = (np.broadcast_to(c, n).astype(float) for c in costs)
    dims = np.stack(op.dims, 1) if len(op.dims) else np.zeros((n, 6))
    columns, ms = work(kind, flops, moved, launches, dims), np.nanmedian(times, axis=0)
    events_s = EVENTS_S if name.startswith("neusight") else 0.0
    made = (name, gpu, kind, precision, columns, read)
    return Kernels(*made, ms / 1e3, times.T / 1e3, events_s)


def _products(name: str, rows: list[dict[str, str]]) -> Iterator[Kernels]:
    for (gpu, dtype), some in _groups(rows, "gpu", "dtype"):
        precision, size = DTYPES[dtype]
        m, n, k = dims = _numbers(some, "m", "n", "k")
        op = ops.linear("gemm", dims, size)
        op = op._replace(activation_bytes=size * m * k + 2 * m * n)
        yield _kernels(name, gpu, "linear", precision, op, _numbers(some, *AIC))


def _attention(name: str, rows: list[dict[str, str]]) -> Iterator[Kernels]:
    kind = name.rpartition("_")[2]
    sizes = ("batch", "new", "past", "heads", "kv_heads", "head_dim")
    for (gpu,), some in _groups(rows, "gpu"):
        op = ops.attention(kind, _numbers(some, *sizes), 2)
        yield _kernels(name, gpu, kind, "bf16", op, _numbers(some, *AIC))


def _eager_products(name: str, rows: list[dict[str, str]]) -> Iterator[Kernels]:
    """Apart: sizes that no layer has, which take up to three times as long."""
    for row in rows:
        even = all(int(row[n]) % LAYER_STEP == 0 for n in "mnk")
        row["table"] = name if even else f"{name} odd"
    for (table, gpu, op_name), some in _groups(rows, "table", "gpu", "op"):
        batch, *dims = _numbers(some, "batch", "m", "n", "k")
        op = ops.linear(op_name, tuple(dims), 4, op_name == "linear")
        op = op._replace(
            flops_causal=batch * op.flops,
            weight_bytes=batch * op.weight_bytes,
            activation_bytes=batch * op.activation_bytes,
        )
        kind = op.kind if op_name == "linear" else "matmul"
        yield _kernels(table, gpu, kind, "fp32", op, _numbers(some, "ms"))


def _eager_pointwise(name: str, rows: list[dict[str, str]]) -> Iterator[Kernels]:
    for (gpu, op_name), some in _groups(rows, "gpu", "op"):
        values, width = _numbers(some, "rows", "width")
        moved = PASSES.get(op_name, 2) * 4 * values * width
        op = ops.pointwise(op_name, moved, moved)
        kind = "norm" if op_name == "ln" else "elementwise"
        yield _kernels(name, gpu, kind, "fp32", op, _numbers(some, "ms"))


def _serving(name: str, rows: list[dict[str, str]]) -> Iterator[Kernels]:
    """Times to a microsecond: of those under ten nothing is learnt."""
    long = [row for row in rows if float(row["ms"] or 0) > 0]
    for (gpu, op_name), some in _groups(long, "gpu", "op"):
        times = _numbers(some, "ms")
        if op_name.endswith("_proj"):
            op = ops.linear(op_name, _numbers(some, "m", "n", "k"), 2)
            yield _kernels(name, gpu, "linear", "fp16", op, times)
        else:
            [moved] = _numbers(some, "bytes")
            op = ops.pointwise(op_name, moved, moved)
            yield _kernels(name, gpu, "elementwise", "fp16", op, times)


def _generations(name: str, rows: list[dict[str, str]]) -> Iterator[Whole]:
    for row in rows:
        fits = row["fits_memory"] == "True" and row["faster_than_datasheet"] == "False"
        if fits and row["model"] in SERVED and row["software"] in ENGINES:
            sizes = int(row["batch"]), int(row["len"])
            parts = served(SERVED[row["model"]], *sizes, sizes[1])
            engine = ENGINES[row["software"]]
            seconds = float(row["seconds"])
            yield Whole(name, row["gpu"], row["software"], parts, seconds, engine)


def served(
    shape: ModelShape, batch: int, prompt_len: int, new_tokens: int
) -> tuple[tuple[Point, int], ...]:
    """A generation as serving engines run it: compiled prefill, replayed steps.

    The steps are those at their mean length, where a static cache holds no empty row.
    """
    shape = replace(shape, max_positions=2**17)
    read = Workload("prefill", batch, prompt_len, logits="last")
    write = Workload("decode", batch, prompt_len + new_tokens // 2 - 1)
    first, step = (as_served(Point(shape, one, FP16)) for one in (read, write))
    return (first, 1), (step, new_tokens - 1)


def _forwards(name: str, rows: list[dict[str, str]]) -> Iterator[Whole]:
    for row in rows:
        wanted = row["mode"] == "inf" and row["option"] == "eager"
        if wanted and row["model"] in TRAINED and not row["gpu"].startswith("AMD"):
            shape, seconds = TRAINED[row["model"]], float(row["forward_ms"]) / 1e3
            work = Workload("prefill", int(row["batch"]), int(row["seq"]))
            point = Point(shape, work, Recipe("fp32", attention="eager"))
            yield Whole(name, row["gpu"], "PyTorch eager", ((point, 1),), seconds)


def _encoders(name: str, rows: list[dict[str, str]]) -> Iterator[Whole]:
    """BERT-base without embeddings and head, in PyTorch."""
    shape = ModelShape("bert", 12, 768, vocab=2)
    for row in rows:
        if row["software"] == "PyTorch TorchScript":
            work = Workload("prefill", int(row["batch"]), int(row["seq"]))
            point = Point(shape, work, Recipe(row["precision"], attention="eager"))
            seconds = float(row["ms"]) / 1e3
            yield Whole(name, row["gpu"], row["software"], ((point, 1),), seconds)


KERNELS = {
    "aic_gemm": _products,
    "aic_attention_prefill": _attention,
    "aic_attention_decode": _attention,
    "neusight_gemm": _eager_products,
    "neusight_elementwise": _eager_pointwise,
    "vidur_ops": _serving,
}
WHOLES = {"llm_inference_bench": _generations, "neusight_forward": _forwards}
WHOLES["bert_forward"] = _encoders
