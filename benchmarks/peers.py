r"""Our decoder beside other engines on one shape, in interleaved rounds.

    python -m benchmarks.peers --minutes 30 [--out results/peers] [--only int8 llama]

The minutes are those of the measuring; once, before, models are written (14 GB at full
size, minutes), and each process starts (its seconds are in the table).

Engines are measured where they are installed, an absent one is said in a line. In a
venv of their own, which sees fastlab's packages by a .pth file with the path of their
site-packages, and without their dependencies:

    pip install --no-deps gguf ctranslate2 openvino openvino-telemetry nncf pydot \
        tabulate scikit-learn joblib threadpoolctl onnx onnxruntime ml_dtypes protobuf \
        flatbuffers onnxruntime-genai onnx_ir onnxscript llama-cpp-python diskcache

with CMAKE_ARGS for llama-cpp-python (see peer_engines.LlamaCpp).

Random weights are written once in each engine's own format, under --models. Formats of
one width are a group: each engine lives in a process of its own, and all are asked in
turn, round by round, until the group's share of the minutes is over; each round also
reads and copies memory. Printed: medians of a decode step after the first prompt, of
prefill, what is stored and held, seconds from the start of the process until each
length has run, and the share of the read bandwidth of the same rounds at which weights
are read, the token table left out. `same`: how often the first token is that of the
first engine of the group. rows.csv has a line for each figure of each round, run.json
the table and who measured. data/peers has them of three runs on two cores, one a group.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.peer_engines import ENGINES, LlamaBench
from fastlab import machine
from fastlab.spec import ModelShape, Point, Recipe
from fastlab.spec.checks import digest

LEAST = 3  # rounds of each group
PAUSE_S = 0.1  # before each engine's turn: the last one's threads spin a little
NAMES = [(name, form) for name, engine in ENGINES.items() for form in engine.formats]


class Process:
    """One engine with its weights, alive between rounds."""

    def __init__(self, name: str, form: str, path: Path, options: Any) -> None:
        self.name, self.form, self.path = name, form, path
        self.began = time.perf_counter()
        threads, most = str(options.threads), max(options.prompts) + options.steps + 8
        command = [sys.executable, "-m", "benchmarks.peers", "--serve", name, form]
        command += [str(path), "--threads", threads, "--positions", str(most)]
        command += ["--llama-bench", options.llama_bench]
        env = os.environ | {"OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
        self.log = options.out / "log.txt"
        with self.log.open("a") as log:
            pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self.process = subprocess.Popen(command, env=env, text=True, **pipe)

    def ask(self, ids: list[int], new: int) -> tuple[list[int], list[float]]:
        """Tokens and their seconds; RuntimeError where the process ended."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            print(json.dumps([ids, new]), file=stdin, flush=True)
            tokens, seconds = json.loads(stdout.readline())
        except (ValueError, BrokenPipeError) as error:
            raise RuntimeError(f"{self.name} {self.form} ended") from error
        return tokens, seconds

    def start(self, prompts: list[list[int]]) -> float:
        """Seconds to its first two tokens, 0 where it fails; each length has run once.

        What that compiles is in it: engines may compile for each length.
        """
        try:
            for prompt in prompts:
                self.ask(prompt, 2)
        except RuntimeError as error:
            print(f"{error}: see {self.log}", flush=True)
            return 0.0
        return time.perf_counter() - self.began

    def memory(self, field: str) -> float:
        """Bytes of VmRSS (now) or VmHWM (its peak)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith(field)]
        return int(line.split()[1]) * 1024

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Memory:
    """Reads and copies of more bytes than caches hold, in bytes a second."""

    def __init__(self, threads: int, size: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.source = torch.ones(size // 8, dtype=torch.int64)
        self.target = self.source.clone()

    def read(self) -> float:
        """The best of three sums."""
        return self._best(self.source.sum, self.source.nbytes)

    def copy(self) -> float:
        """The best of three copies, read and written bytes together."""
        return self._best(
            lambda: self.target.copy_(self.source), 2 * self.source.nbytes
        )

    def _best(self, work: Any, size: int) -> float:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return size / min(seconds)


def serve(options: argparse.Namespace) -> None:
    """Answer each line of stdin; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, form, path = options.serve
    kind, threads = ENGINES[name], options.threads
    if name == "llama.cpp" and options.llama_bench:
        kind, LlamaBench.binary = LlamaBench, options.llama_bench
    if "torch" in sys.modules or name == "fastlab" or name.startswith("transformers"):
        import torch

        torch.set_num_threads(threads)
    engine = kind(Path(path), form, threads, options.positions)
    for line in sys.stdin:
        print(json.dumps(engine.run(*json.loads(line))), file=answers, flush=True)


def exported(name: str, form: str, models: Path, options: Any) -> Path:
    """The folder of a format, written by a process of its own unless it is there."""
    if name.startswith("transformers"):
        return models / "model"
    path = models / f"{name.removesuffix(' genai')}-{form}".replace(" ", "-")
    if not path.exists():
        part = path.with_suffix(".part")
        subprocess.run(["rm", "-rf", str(part)], check=True)
        command = [sys.executable, "-m", "benchmarks.peers", "--export", name, form]
        command += [str(models / "model"), str(part)]
        env = os.environ | {"HF_HUB_OFFLINE": "1"}
        with (options.out / "log.txt").open("a") as log:
            subprocess.run(command, check=True, env=env, stdout=log, stderr=log)
        part.rename(path)
    return path


def write_model(shape: ModelShape, folder: Path) -> None:
    """Random bf16 weights, and a tokenizer of as many words: converters want one."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    import fastlab as fl

    words = models.WordLevel({f"t{i}": i for i in range(shape.vocab)}, unk_token="t0")
    last = shape.vocab - 1  # builders ask for special tokens
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), f"t{last}")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), unk_token="t0", **special
    )
    model: Any = fl.build(Point(shape, recipe=Recipe("bf16")))
    for config in (model.config, model.generation_config):
        config.bos_token_id = config.eos_token_id = config.pad_token_id = last
    fl.save(model, folder, tokenizer)


def absent(name: str, form: str, options: Any) -> str:
    """Why an engine is not measured here; "" where it is."""
    from fastlab.spec.formats import FORMATS

    engine = ENGINES[name]
    if name == "llama.cpp" and options.llama_bench:
        engine = LlamaBench
    missing = [package for package in engine.needs if not find_spec(package)]
    if missing:
        return f"{', '.join(missing)} not installed"
    if name == "fastlab" and form not in FORMATS:
        return f"there is no precision {form}"
    return ""


def measure(
    group: dict[tuple[str, str], Path], memory: Memory, options: Any, share: float
) -> pd.DataFrame:
    """Rows of a group's rounds: engine, format, round, figure, value.

    share: of the minutes, which run from when the last of the group is ready.
    """
    alive: list[Process] = []
    rows: list[tuple[str, str, int, str, float]] = []
    try:
        for (name, form), path in group.items():
            alive.append(Process(name, form, path, options))
            if took := alive[-1].start(drawn(0, options)):
                rows.append((name, form, 0, "start_s", took))
                print(f"{name} {form}: ready after {took:.0f} s", flush=True)
            else:
                alive.pop().stop()
        number, ends = 0, time.monotonic() + options.minutes * 60 * share
        while alive and (number < LEAST or time.monotonic() < ends):
            number += 1
            rows.append(("memory", "", number, "read", memory.read()))
            rows.append(("memory", "", number, "copy", memory.copy()))
            rows += one_round(alive, number, options)
        for one in alive:
            for field in ("VmRSS", "VmHWM"):
                rows.append((one.name, one.form, number, field, one.memory(field)))
    finally:
        for one in alive:
            one.stop()
    return pd.DataFrame(rows, columns=["engine", "format", "round", "figure", "value"])


def one_round(alive: list[Process], number: int, options: Any) -> Any:
    """Each engine in turn, all with the same prompts."""
    short, *longer = drawn(number, options)
    expected = -1
    for one in alive:
        who = one.name, one.form, number
        time.sleep(PAUSE_S)
        tokens, seconds = one.ask(short, options.steps + 1)
        yield (*who, f"prefill_{len(short)}_s", seconds[0])
        yield from ((*who, "decode_s", value) for value in seconds[1:])
        if tokens:
            expected = tokens[0] if expected < 0 else expected
            yield (*who, "same", float(tokens[0] == expected))
        for prompt in longer:
            yield (*who, f"prefill_{len(prompt)}_s", one.ask(prompt, 1)[1][0])


def drawn(number: int, options: Any) -> list[list[int]]:
    """A round's prompts, one of each length; the last word, which ends, left out."""
    source = np.random.default_rng(number)
    sizes = options.prompts
    return [source.integers(0, options.vocab - 1, size).tolist() for size in sizes]


def table(rows: pd.DataFrame, sizes: dict[tuple[str, str], int], options: Any) -> Any:
    """The printed table, from the rows of all groups."""
    lines = []
    for (name, form), own in rows[rows.engine != "memory"].groupby(
        ["engine", "format"], sort=False
    ):
        mid = own.groupby("figure").value.median()
        apart = rows[(rows.group == own.group.iloc[0]) & (rows.figure == "read")]
        embedding = options.vocab * options.hidden * ENGINES[name].formats[form][1] / 8
        read = (sizes[name, form] - embedding) / mid["decode_s"]
        decode = own[own.figure == "decode_s"].value
        line = {"engine": f"{name} {form}", "decode ms": mid["decode_s"] * 1e3}
        line["IQR ms"] = (decode.quantile(0.75) - decode.quantile(0.25)) * 1e3
        line |= {"n": len(decode), "tok/s": 1 / mid["decode_s"]}
        for n in options.prompts:
            line[f"prefill {n} ms"] = mid[f"prefill_{n}_s"] * 1e3
        line |= {"weights MB": sizes[name, form] / 1e6, "RSS GB": mid["VmRSS"] / 1e9}
        line |= {"peak GB": mid["VmHWM"] / 1e9, "start s": mid["start_s"]}
        line["of read"] = read / apart.value.median()
        same = own[own.figure == "same"].value
        line["same"] = same.mean() if len(same) else np.nan
        lines.append(line)
    return pd.DataFrame(lines)


def weights_bytes(path: Path) -> int:
    """Of the files of an export; JSON (configurations, vocabularies) left out."""
    files = (f for f in path.rglob("*") if f.is_file() and f.suffix != ".json")
    return sum(f.stat().st_size for f in files)


def main() -> int:
    """Export, measure group by group, print; 1 where nothing could be measured."""
    options = _options()
    if options.serve:
        serve(options)
        return 0
    if options.export:
        name, form, model, to = options.export
        ENGINES[name].export(Path(model), form, Path(to))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    shape = ModelShape("llama", max_positions=4096, **_sizes(options))
    models = options.models / digest(shape.to_dict())[:12]
    if not (models / "model").exists():
        write_model(shape, models / "model")
    wanted: dict[int, list[tuple[str, str]]] = {}
    for name, form in NAMES:
        chosen = not options.only or any(o in f"{name} {form}" for o in options.only)
        if chosen and (why := absent(name, form, options)):
            print(f"{name} {form}: {why}", flush=True)
        elif chosen:
            wanted.setdefault(ENGINES[name].formats[form][0], []).append((name, form))
    if not wanted:
        return 1
    paths = {who: exported(*who, models, options) for g in wanted.values() for who in g}
    memory, frames = Memory(options.threads, options.memory_mb * 2**20), []
    share = 1 / len(wanted)
    for bits, names in wanted.items():
        group = {who: paths[who] for who in names}
        frames.append(measure(group, memory, options, share).assign(group=bits))
    rows = pd.concat(frames)
    sizes = {who: weights_bytes(path) for who, path in paths.items()}
    found = table(rows, sizes, options)
    rows.to_csv(options.out / "rows.csv", index=False)
    about = {"environment": machine.environment("cpu"), "shape": shape.to_dict()}
    about |= {"table": found.to_dict("records"), "versions": _versions()}
    (options.out / "run.json").write_text(json.dumps(about, indent=1) + "\n")
    print(found.round(2).to_string(index=False))
    rates = rows[rows.engine == "memory"].groupby("figure").value
    for figure, each in rates:
        low, middle, high = each.quantile([0, 0.5, 1]) / 1e9
        print(f"{figure}: {middle:.1f} GB/s ({low:.1f} to {high:.1f}, n={len(each)})")
    return 0


def _sizes(options: argparse.Namespace) -> dict[str, int]:
    names = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab")
    return {name: getattr(options, name) for name in names}


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    packages = {p.replace("_", "-") for e in ENGINES.values() for p in e.needs}
    found = {}
    for name in sorted(packages | {"llama-cpp-python"}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="for all rounds")
    parser.add_argument("--out", type=Path, default=Path("results/peers"))
    parser.add_argument("--models", type=Path, default=Path("results/peers-models"))
    parser.add_argument("--only", nargs="*", help="engines whose names hold one")
    parser.add_argument("--llama-bench", default="", help="a binary, for the library")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--prompts", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--steps", type=int, default=8, help="decoded in a round")
    parser.add_argument("--memory-mb", type=int, default=1024)
    usual = {"layers": 24, "hidden": 896, "heads": 14, "kv_heads": 2, "ffn": 4864}
    for name, size in (usual | {"vocab": 151936}).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--export", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--positions", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
