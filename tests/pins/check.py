"""Do the notebooks still show what is pinned? python -m tests.pins.check [NOTEBOOK ...]

Each runs in a process, a folder and a cache of its own, with what it replays by
default, and of what is measured live as much as was pinned. Prints what is missing or
differs.
"""

import ast
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from tests.pins import HERE, compare

ROOT = HERE.parents[1]
LISTS = json.loads((HERE / "lists.json").read_text(encoding="utf-8"))
LIVE = ["no cache", "dynamic", "static", "our decoder"]
GIVEN: dict[str, dict[str, Any]] = {
    "02_time_it_properly": {"n_max": 70, "budget_s": 0.5, "compiler": "eager"},
    "08_decode_and_cache": {"live_rungs": LIVE},
    "10_the_article_case": {"compiled": "both"},
}


def shown(notebook: str) -> None:
    """Run a notebook's code cells here; every figure is compared as it is shown."""
    from fastlab.notebook.run import Run

    plain = Run.show

    def show(run: Run, figure: Any, name: str, *args: Any, **more: Any) -> Any:
        pinned = f"{notebook}_{name}"
        if (HERE / "figures" / f"{pinned}.csv").exists():
            print(pinned, compare(pinned, figure.table) or "as pinned", flush=True)
        return plain(run, figure, name, *args, **more)

    Run.show = show  # type: ignore[method-assign]
    space: dict[str, Any] = {}
    book = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())
    for cell in (c for c in book["cells"] if c["cell_type"] == "code"):
        executed("".join(cell["source"]), space)
        if "parameters" in cell["metadata"].get("tags", ()):
            space |= GIVEN.get(notebook, {})


def executed(source: str, space: dict[str, Any]) -> Any:
    """The value of the last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), space)
    return last and eval(compile(ast.Expression(last.value), "cell", "eval"), space)


def main(chosen: list[str]) -> None:
    """All notebooks, or those named."""
    stems = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    for notebook in [s for s in stems if not chosen or s[:2] in chosen or s in chosen]:
        with tempfile.TemporaryDirectory() as folder:
            env = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": folder}
            env |= {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"}
            code = f"from tests.pins.check import shown; shown({notebook!r})"
            subprocess.run(
                [sys.executable, "-c", code], cwd=folder, env=os.environ | env
            )


if __name__ == "__main__":
    main(sys.argv[1:])
