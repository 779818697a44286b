"""How long a reader waits: slider to picture in every explorer, and whole notebooks.

    python -m benchmarks.responsiveness [--notebooks]

No test judges these: other programs may have the cores. Wanted: 500 ms for a picture.
Explorers are those of tests/figures/explorers.py, moved by all controls, without a
browser (tests/browser, with pytest -s, prints it with one). Notebooks run as in
tests/notebooks, with tiny parameters, in one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.figures.explorers import MAKERS
from tests.notebooks.conftest import NOTEBOOKS, execute, inherited


def redraws_ms(box: Any) -> Iterator[float]:
    """Milliseconds of each redraw: every control goes to both ends."""
    for control in box.controls.values():
        for place in (-1, 0):
            value = list(dict(control.options).values())[place]
            if value != control.value:
                began = time.perf_counter()
                control.value = value
                yield 1e3 * (time.perf_counter() - began)


def explorers() -> None:
    """A row for each explorer: changes, and median and longest redraw in ms."""
    print(f"{'explorer':<24}{'changes':>10}{'median ms':>12}{'longest ms':>12}")
    for name, maker in MAKERS.items():
        ms = list(redraws_ms(maker().widget()))
        print(f"{name:<24}{len(ms):>10}{statistics.median(ms):>12.0f}{max(ms):>12.0f}")


def notebooks() -> None:
    """A row for each notebook: seconds by the wall clock and by that of its kernel."""
    print(f"{'notebook':<24}{'seconds':>10}{'CPU seconds':>12}")
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            os.environ |= inherited(Path(folder) / "cache")
            began = time.perf_counter()
            cpu_s = execute(path, Path(folder)).cpu_s
            wall_s = time.perf_counter() - began
        print(f"{path.stem:<24}{wall_s:>10.1f}{cpu_s:>12.1f}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notebooks", action="store_true", help="these too: minutes")
    wanted = parser.parse_args()
    explorers()
    if wanted.notebooks:
        notebooks()


if __name__ == "__main__":
    main()
