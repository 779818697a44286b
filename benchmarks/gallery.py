"""Draw results/gallery from data/reference: every figure from rows with a run.json.

python benchmarks/gallery.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

import fastlab as fl
from fastlab.figures.grammar import Figure, show
from fastlab.sweeps.reference import Reference, references
from fastlab.sweeps.store import Store

LADDER = ("bf16", "fp32", "int8", "int4-g64")
GALLERY = Path(__file__).parents[1] / "results" / "gallery"


def figures(reference: Reference) -> Iterator[tuple[str, Figure]]:
    """Name and figure of everything that a reference's rows can show."""
    rows = fl.table(reference.records)
    sweep = fl.figures.sweep
    yield "scatter", sweep.scatter(rows)
    decode = fl.figures.decode
    ladder = reference.rows(decode.ladder_points("24x896", LADDER))
    if ladder:
        steps = decode.rungs(fl.table(ladder, Store(reference.folder).envs()))
        figure = decode.ladder(steps, "Decoding 24x896, one sequence")
        yield "ladder", figure
    for phase in ("prefill", "decode"):
        grid = square(reference, phase)
        if len(grid):
            yield f"heatmaps_{phase}", sweep.heatmaps(grid, phase, "fp32")
    formats = reference.rows(precisions())
    if any(record.point.recipe.precision == "int8" for record in formats):
        made = fl.estimated(fl.table(formats), reference.profile)
        made = fl.over(fl.rows.with_quality(made, rows), precision="bf16")
        yield "precisions", fl.figures.precisions.trade(made)


def precisions() -> list[fl.Point]:
    """The points of notebook 06: prefill and decode of one model in every format."""
    formats = ["fp32", "bf16", "autocast-bf16", "int8", "int8-dynamic", "int4-g128"]
    shape = {"family": "llama", "vocab": 8192, "layers": 6, "hidden": 1024}
    work = {"phase": ["prefill", "decode"], "prompt_len": 64}
    return fl.grid(**shape, **work, precision=formats)


def square(reference: Reference, phase: str) -> pd.DataFrame:
    """The rows of notebook 05's grid: llama, 128 tokens, layers x hidden, fp32."""
    points = fl.grid(
        family="llama",
        vocab=8192,
        layers=[2, 4, 8],
        hidden=[256, 512, 768],
        phase=phase,
        prompt_len=128,
    )
    found = reference.rows(points)
    return fl.table(found if len(found) == len(points) else [])


def main() -> None:
    """Write the figures, and a page that shows them with their alt texts."""
    GALLERY.mkdir(parents=True, exist_ok=True)
    lines = ["# Gallery", "", "Drawn by `python benchmarks/gallery.py`.", ""]
    for reference in references():
        lines += [f"## {reference.device}", ""]
        rows = f"../../data/reference/{reference.folder.name}"
        lines += [
            f"{len(reference.records)} rows: [{reference.folder.name}]({rows})",
            "",
        ]
        for name, figure in figures(reference):
            file = f"{reference.folder.name}_{name}.png"
            lines += [f"![{show(figure, save=GALLERY / file).alt}]({file})", ""]
    (GALLERY / "README.md").write_text("\n".join(lines), encoding="utf-8")
    print(GALLERY)


if __name__ == "__main__":
    main()
