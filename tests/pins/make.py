"""Records what the notebooks, stored rows and names hold: python -m tests.pins.make.

Each notebook runs twice, in folders of its own and with other numbers of threads: what
then differs was measured live, and cannot be pinned.
"""

from __future__ import annotations

import ast
import html
import json
import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from tests.pins import HERE, LOOSE, TIGHT, far, read

ROOT = HERE.parents[1]
THREADS, LIVE = "OMP_NUM_THREADS", "live"
MODULES = ("tables", "plots", "alt", "explore", "counts", "traps", "drift")
CONTROL = ("description", "options", "min", "max", "value")
# What timing finds beside times: in a live figure the same twice by chance.
BY_CHANCE = ("n", "samples", "noisy", "status", "cv", "reason", "flags")
# Judged by torch: the last digits are those of the machine.
COMPUTED = ("09_distill_and_share_stored", "09_distill_and_share_students")
# Less of what is live anyway. Students learn other steps in each run: they are live.
QUICK = {
    "02_time_it_properly": {"n_max": 70, "budget_s": 0.5, "compiler": "eager"},
    "08_decode_and_cache": {"train_s": 0.5},
    "09_distill_and_share": {"steps": 2 * int(os.environ.get(THREADS, 1))},
    "10_the_article_case": {"distill_steps": 1},
}
Told = dict[str, Any]


def capture(notebook: str, out: Path) -> None:
    """Run a notebook's code cells here; its figures, tables and controls go to out."""
    import matplotlib.pyplot as plt

    import fastlab as fl

    told: Told = {"figures": {}, "explorers": {}}

    def show(figure, alt, caption="", rows=None, save=None):
        name = f"{notebook}_{save.stem}"
        columns = None if rows is None else [str(c) for c in rows.columns]
        told["figures"][name] = {"alt": alt, "caption": caption, "rows": columns}
        if rows is not None:
            rows.to_csv(out / f"figures-{name}.csv", index=False)
        plt.close(figure)

    def explored(real, *args, **kwargs):
        box = real(*args, **kwargs)
        told["explorers"][real.__name__] = {"notebook": notebook, **controls(box)}

    fl.show, space = show, {}
    for name in fl.explore.__all__:
        setattr(fl.explore, name, partial(explored, getattr(fl.explore, name)))
    book = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())
    for at, cell in enumerate(c for c in book["cells"] if c["cell_type"] == "code"):
        value = executed("".join(cell["source"]), space)
        if "parameters" in cell["metadata"].get("tags", ()):
            space |= QUICK.get(notebook, {})
        if isinstance(value := getattr(value, "data", value), pd.DataFrame):
            value.to_csv(out / f"tables-{notebook}_{at:02}.csv", index=False)
    (out / "told.json").write_text(json.dumps(told, default=str))


def executed(source: str, space: Told) -> Any:
    """The value of the last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), space)
    return last and eval(compile(ast.Expression(last.value), "cell", "eval"), space)


def controls(box: Any) -> Told:
    """What can be moved, and the alt text of the first picture."""
    found, alt, boxes = [], None, [box]
    while boxes:
        one = boxes.pop(0)
        boxes = [*getattr(one, "children", ()), *boxes]
        if getattr(one, "description", ""):
            control = {k: getattr(one, k) for k in CONTROL if hasattr(one, k)}
            found.append({"kind": type(one).__name__, **control})
        elif match := re.search('alt="([^"]*)"', str(getattr(one, "value", ""))):
            alt = html.unescape(match[1])
    return {"controls": found, "alt": alt}


def run(notebook: str, out: Path, threads: int) -> Told:
    """One capture in a process, working folder and cache of its own."""
    env = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(out), "MPLBACKEND": "Agg"}
    env |= {THREADS: str(threads), "HF_HUB_OFFLINE": "1"}
    code = f"from tests.pins.make import *; capture({notebook!r}, Path({str(out)!r}))"
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=out, env=os.environ | env, check=True)
    return json.loads((out / "told.json").read_text())


def pin_notebook(notebook: str, lists: Told, alts: Told) -> None:
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        first, second = run(notebook, Path(a), 2), run(notebook, Path(b), 1)
        for name, figure in first["figures"].items():
            same = alike(figure, second["figures"][name])
            alts[name] = {k: same[k] for k in ("alt", "caption")}
            alt = "live" if same["alt"] == LIVE else "pinned"
            lists["figures"][name] = {"rows": figure["rows"], "alt": alt}
        for name, explorer in first["explorers"].items():
            lists["explorers"][name] = alike(explorer, second["explorers"][name])
        for path in sorted(Path(a).glob("*-*.csv")):
            kind, name = path.stem.split("-", 1)
            entry = pin(path, Path(b) / path.name, HERE / kind / f"{name}.csv")
            lists[kind][name] = lists[kind].get(name, {}) | entry


def alike(one: Any, other: Any) -> Any:
    """What is the same in both, with a mark where they differ."""
    if isinstance(one, dict):
        return {k: alike(v, other[k]) for k, v in one.items()}
    if one and isinstance(one, list) and isinstance(one[0], dict):
        return [alike(*pair) for pair in zip(one, other, strict=True)]
    return one if one == other else LIVE


def pin(a: Path, b: Path, to: Path) -> Told:
    """Write one run's table without live values; tell which columns are live, loose."""
    one, two = read(a), read(b)
    known = {c: far(one[c], two[c]) if len(one) == len(two) else 9 for c in one}
    live = [c for c, off in known.items() if off > LOOSE]
    live += [c for c in one if c in BY_CHANCE and live and c not in live]
    one.assign(**dict.fromkeys(live)).to_csv(to, index=False)
    loose = [c for c, off in known.items() if c not in live and off > TIGHT]
    if to.stem in COMPUTED:
        loose = [c for c in one.select_dtypes(float) if c not in live]
    return {"count": len(one), "live": live, "loose": loose}


def names() -> Told:
    import fastlab as fl

    found = {"fastlab": list(fl.__all__)}
    for name in MODULES:
        module = import_module(home := fl._MODULES[name])
        own = {n for n, v in vars(module).items() if n.isupper() or is_of(v, home)}
        found[name] = sorted(getattr(module, "__all__", own - {"TYPE_CHECKING"}))
    return {"exercises": sorted(fl.check.EXERCISES), "names": found}


def is_of(value: Any, home: str) -> bool:
    return getattr(value, "__module__", "") == home and value.__name__[0] != "_"


def pin_stored() -> None:
    from fastlab.spec.point import Point

    lines = []
    for path in (ROOT / "data" / "reference").glob("*/*.jsonl"):
        for row in map(json.loads, path.read_text().splitlines()):
            if row["kind"] == "record":
                label = Point.from_dict(row["point"]).label
                lines.append((path.parent.name, row["key"], label))
    keys = pd.DataFrame(sorted(lines), columns=["folder", "key", "label"])
    keys.to_csv(HERE / "keys.csv", index=False)
    for folder in sorted(set(keys.folder)):
        command = [sys.executable, "-m", "fastlab", "score", f"data/reference/{folder}"]
        board = subprocess.check_output(command, cwd=ROOT)
        (HERE / f"score_{folder}.txt").write_bytes(board)


def main(chosen: list[str]) -> None:
    lists, alts = files = [stored("lists.json"), stored("alt.json")]
    lists |= {k: lists.get(k, {}) for k in ("figures", "tables", "explorers")} | names()
    pin_stored()
    for notebook in chosen or [p.stem for p in (ROOT / "notebooks").glob("*.ipynb")]:
        pin_notebook(notebook, lists, alts)
        for name, value in zip(("lists.json", "alt.json"), files, strict=True):
            words = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
            (HERE / name).write_text(words + "\n")


def stored(name: str) -> Told:
    return json.loads((HERE / name).read_text()) if (HERE / name).exists() else {}


if __name__ == "__main__":
    main(sys.argv[1:])
