"""What fastlab itself costs, beside what a user would run instead; one run, printed.

    python benchmarks/overheads.py

Overhead of a stored point = everything but warm-up and timing, the model being reused:
estimate, inputs, peak-memory pass, check of the output, one fsynced line; in this
process and in a warm worker. Beside it points that do nothing, in a warm worker and in
a process each, and a papermill notebook per point, empty and with torch imported. Then
a sweep's first row beside the imports that it needs, the import of the package, 10,000
estimates, and what a store of 10,000 rows has.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import papermill
from noop import NoOp

from fastlab.clock import measure as measuring
from fastlab.clock.measure import Bench
from fastlab.clock.timing import Settings
from fastlab.latency.costs import costs_of
from fastlab.latency.estimates import estimate
from fastlab.record import Measurement, Record
from fastlab.spec import grid
from fastlab.sweeps.isolation import bench_in
from fastlab.sweeps.lines import seal
from fastlab.sweeps.run import measured
from fastlab.sweeps.store import Store

POINTS = grid(model="tiny-llama", phase=["prefill", "decode"], prompt_len=range(8, 260))


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


QUICK = Settings.for_device("cpu", budget_s=0.01, warmup_s=0.0, n_min=3, n_max=3)


def watched_bench() -> Bench:
    """A bench whose rows say in `reason` how many seconds warm-up and timing took."""
    time_call, bench = measuring.time_call, Bench.for_device("cpu", QUICK)
    measure, inside = bench.measure, [0.0]

    def watched(*args: Any) -> Any:
        began = time.perf_counter()
        result = time_call(*args)
        inside[0] = time.perf_counter() - began
        return result

    measuring.time_call = watched
    bench.measure = lambda point: replace(measure(point), reason=str(inside[0]))
    return bench


def stored_points(
    isolation: str, make: Callable[..., Any] = watched_bench, count: int = 200
) -> list[float]:
    """Seconds outside warm-up and timing, for each of so many points stored on disk."""
    ends, inside = [], []
    with (
        bench_in(isolation, make) as bench,
        tempfile.TemporaryDirectory() as folder,
    ):
        for row in measured(POINTS[:count], Store(folder), bench, list):
            ends.append(time.perf_counter())
            inside.append(float(row.reason or 0))
    walls = [b - a for a, b in itertools.pairwise(ends)]
    return [wall - timed for wall, timed in zip(walls, inside[1:], strict=True)]


def first_row() -> float:
    """Seconds from the command to a sweep's first row; the device is calibrated."""
    with tempfile.TemporaryDirectory() as name:
        file, folder = Path(name) / "one.yaml", Path(name) / "store"
        file.write_text("settings: {budget_s: 0.05}\ngrids: [{model: tiny-llama}]")
        began = time.perf_counter()
        command = [sys.executable, "-m", "fastlab", "sweep", file, "--store", folder]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while not any(b'"record"' in path.read_bytes() for path in folder.glob("*l")):
            time.sleep(0.005)
        spent = time.perf_counter() - began
        process.wait()
    return spent


def imports() -> float:
    """Seconds in which an interpreter imports what measures points."""
    wanted = "import fastlab.clock.measure, transformers.models.llama.modeling_llama"
    command = [sys.executable, "-c", wanted]
    return seconds(lambda: subprocess.run(command, check=True))


def notebook_per_point(source: str, times: int) -> list[float]:
    """Seconds of a papermill run of a one-cell notebook, several times."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "point.ipynb"
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(book, path)

        def execute() -> None:
            papermill.execute_notebook(str(path), str(path), progress_bar=False)

        return [seconds(execute) for _ in range(times)]


def fresh_import() -> float:
    """Seconds that `import fastlab` adds to a new interpreter."""
    command = [sys.executable, "-X", "importtime", "-c", "import fastlab"]
    lines = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()
    cumulative = [int(x.split("|")[1]) for x in lines if x.endswith("| fastlab")]
    return cumulative[0] / 1e6


def ten_thousand_estimates() -> float:
    """Seconds for the estimates of 10,000 built points, none of them seen before."""
    points = grid(
        family=["gpt2", "llama"],
        layers=range(1, 51),
        hidden=range(64, 1344, 64),
        prompt_len=[64, 128, 256, 512, 1024],
    )
    profile = Bench.for_device("cpu").profile
    costs_of.cache_clear()
    return seconds(lambda: estimate(points[:10_000], profile))


def ten_thousand_rows_scanned() -> float:
    """Seconds in which a store of 10,000 rows of 50 samples tells what it has."""
    ns = tuple(range(10**6, 10**6 + 50))
    words = ("n_max", "cold", 5, 2.0, (), ns, ns, ns, 7)
    taken = Measurement(1.0, 0.9, 1.1, 50, True, *words)
    data = Record(POINTS[0], "cpu", {}, "ok", measured=taken).to_dict()
    lines = (seal(data | {"key": f"{n:064x}"}) + "\n" for n in range(10_000))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.jsonl").write_text("".join(lines))
        return seconds(lambda: Store(folder).seen("cpu", {}).done)


def line(what: str, samples: list[float]) -> str:
    """A row: median, least and most, in ms."""
    middle, low, high = statistics.median(samples), min(samples), max(samples)
    return f"{what:<52}{middle * 1e3:>10.1f}{low * 1e3:>10.1f}{high * 1e3:>10.1f}"


def main() -> None:
    """Print everything side by side."""
    print(f"{'milliseconds':<52}{'median':>10}{'min':>10}{'max':>10}")
    points = stored_points("inline")
    print(line(f"a stored point, outside timing (n={len(points)})", points))
    warm = stored_points("worker")
    print(line(f"the same in a warm worker (n={len(warm)})", warm))
    nothing = stored_points("worker", NoOp, 501)
    print(line(f"a no-op point, warm worker (n={len(nothing)})", nothing))
    fresh = stored_points("process", NoOp, 21)
    print(line(f"a no-op point, a process each (n={len(fresh)})", fresh))
    real = stored_points("process", count=4)
    print(line(f"a real point, a process each (n={len(real)})", real))
    empty = notebook_per_point("pass", 5)
    print(line("a papermill notebook per point, empty (n=5)", empty))
    torch = notebook_per_point("import torch, transformers.models.llama", 3)
    print(line("the same, importing torch and transformers (n=3)", torch))
    pairs = [(first_row(), imports()) for _ in range(5)]
    rows, alone = (list(column) for column in zip(*pairs, strict=True))
    print(line("a sweep's first row, from the command on (n=5)", rows))
    print(line("importing what measures it alone (n=5)", alone))
    print(line("import fastlab (n=5)", [fresh_import() for _ in range(5)]))
    print(line("10,000 estimates (n=3)", [ten_thousand_estimates() for _ in range(3)]))
    scans = [ten_thousand_rows_scanned() for _ in range(3)]
    print(line("a store of 10,000 rows scanned (n=3)", scans))
    ratio = statistics.median(empty) / statistics.median(points)
    print(f"an empty notebook per point costs {ratio:.0f} times a stored point")
    print(f"500 no-op points in a warm worker: {sum(nothing):.2f} s")


if __name__ == "__main__":
    from overheads import main  # a worker finds what is here by this name

    main()
