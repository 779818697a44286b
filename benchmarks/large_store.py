"""What a store of 100,000 rows costs to plan from, to read and to check; printed.

    python benchmarks/large_store.py [ROWS] [FOLDER]

The rows are those of one grid, 2.2 kB each as real ones are. Each line is a process of
its own, with the CPU's time and the most memory that it took. FOLDER keeps the store.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from fastlab.record import row_key
from fastlab.spec import Point, grid
from fastlab.spec.checks import digest
from fastlab.sweeps.lines import seal
from fastlab.sweeps.reference import references

START = """
import resource, sys, time
began, used = time.perf_counter(), time.process_time()
from pathlib import Path
from fastlab.sweeps.store import Store
store, rows = Store(sys.argv[1]), int(sys.argv[2])
"""
END = """
used, wall = time.process_time() - used, time.perf_counter() - began
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{wall:.2f} s ({used:.2f} s of CPU), {most:.0f} MB: {said}")
"""
FRESH = "(store.folder / '.index.json').unlink(missing_ok=True)\n"
PLAN = """
from benchmarks.large_store import Here, asked
from fastlab.sweeps.plan import left
points = asked(rows + 10)
said = len(left(points, store.seen("cpu", {}), Here))
"""
TABLE = """
from fastlab.rows import table
said = table(store.each(samples=False), store.envs()).shape
"""
TASKS = {
    "plan 10 new points, no index": FRESH + PLAN.replace("+ 10)", "+ 10)[-10:]"),
    "plan 10 new points": PLAN.replace("+ 10)", "+ 10)[-10:]"),
    "plan 10 new among all others": PLAN,
    "the table, no index": FRESH + TABLE,
    "the table": TABLE,
    "check": "said = store.health()",
}


class Here:
    """What a plan asks of a device."""

    @staticmethod
    def key(point: Point) -> str:
        """The key of a point's rows."""
        return row_key(point, "cpu", {})


def asked(rows: int) -> list[Point]:
    """So many points of a grid."""
    points = grid(
        weights=[f"random:{n}" for n in range(rows // 36_000 + 1)],
        family=["llama", "gpt2"],
        layers=range(1, 41),
        hidden=range(64, 704, 64),
        precision=["fp32", "bf16", "int8"],
        batch=[1, 2, 4, 8, 16],
        prompt_len=[16, 32, 64, 96, 128, 160],
    )
    return points[:rows]


def fill(folder: Path, rows: int) -> None:
    """Write the store's one file."""
    records = [one for reference in references() for one in reference.records]
    real = next(one for one in records if one.measured and one.quality)
    samples = dict.fromkeys(("device_ns", "e2e_ns"), tuple(range(10**7, 10**7 + 20)))
    like = replace(real, measured=replace(real.measured, **samples), device="cpu")
    with (folder / "a.jsonl").open("w") as file:
        file.write(seal({"schema": 1, "kind": "env", "env": digest({})}) + "\n")
        for point in asked(rows):
            record = replace(like, point=point, settings={}, key="")
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
            command = [sys.executable, "-c", START + task + END, folder, str(rows)]
            subprocess.run(command)


if __name__ == "__main__":
    main()
