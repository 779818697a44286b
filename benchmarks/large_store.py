"""What a store of 100,000 rows costs to plan from, to read and to check; printed.

    python benchmarks/large_store.py [ROWS] [FOLDER]

The rows are those of one grid, 2.2 kB each as real ones are. Each line is a process of
its own, with the most memory that it held. FOLDER keeps the store for another run.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from fastlab.record import Record
from fastlab.spec import grid
from fastlab.spec.checks import digest
from fastlab.sweeps.lines import seal
from fastlab.sweeps.reference import references

START = """
import resource, sys, time
from pathlib import Path
from fastlab.sweeps.store import Store
folder = Path(sys.argv[1])
began, used = time.perf_counter(), time.process_time()
"""
END = """
used, wall = time.process_time() - used, time.perf_counter() - began
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{wall:8.2f} s ({used:.2f} s of CPU), {most:.0f} MB: {said}")
"""
TASKS = {
    "what is done, without an index": """
for path in folder.glob(".index*"):
    path.unlink()
said = len(Store(folder).seen("cpu", {}).done)
""",
    "what is done, with one": 'said = len(Store(folder).seen("cpu", {}).done)',
    "the table": """
from fastlab.rows import table
said = table(Store(folder).each(samples=False)).shape
""",
    "its health": "said = Store(folder).health()",
}


def made(rows: int) -> itertools.islice[Record]:
    """Records of so many points of a grid, with what a real row holds beside them."""
    reference = next(r for r in references() if r.folder.name == "xeon-2-threads")
    (real, *_) = [r for r in reference.records if r.measured and r.quality]
    full = replace(
        real.measured,
        **dict.fromkeys(("device_ns", "e2e_ns"), tuple(range(10**7, 10**7 + 20))),
    )
    points = grid(
        family=["llama", "gpt2"],
        layers=range(1, 41),
        hidden=range(64, 704, 64),
        precision=["fp32", "bf16", "int8"],
        batch=[1, 2, 4, 8, 16],
        prompt_len=[16, 32, 64, 96, 128, 160],
    )
    seeds = itertools.count()
    endless = (replace(p, weights=f"random:{s}") for s in seeds for p in points)
    return itertools.islice(
        (
            replace(real, point=p, device="cpu", settings={}, measured=full, key="")
            for p in endless
        ),
        rows,
    )


def fill(folder: Path, rows: int) -> None:
    """Write the store's one file."""
    env = {"schema": 1, "kind": "env", "env": digest({})}
    with (folder / "a.jsonl").open("w") as file:
        file.write(seal(env) + "\n")
        for record in made(rows):
            file.write(seal(record.to_dict()) + "\n")


def main() -> None:
    """Fill a store, or use the one that is there, and time each task on it."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as made_folder:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else made_folder)
        folder.mkdir(exist_ok=True)
        if not any(folder.glob("*.jsonl")):
            fill(folder, rows)
        for name, task in TASKS.items():
            print(f"{name}: ", end="", flush=True)
            subprocess.run([sys.executable, "-c", START + task + END, folder])


if __name__ == "__main__":
    main()
