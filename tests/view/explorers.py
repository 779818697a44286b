"""Every explorer, made of rows by hand and moved by all its controls; run as a script.

    python -m tests.view.explorers

prints, as JSON, the version of ipywidgets and for each explorer how many redraws each
change of a control made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import fastlab as fl
from fastlab.clock.traps import Series
from fastlab.spec import Point, grid
from tests.view.conftest import record

SIZES = {"family": "llama", "layers": [2, 4, 6], "hidden": [256, 512], "vocab": 512}
CUT = {"family": "llama", "hidden": 768, "kv_heads": 4, "vocab": 512}
SLIDERS = ("IntSlider", "FloatSlider")
MENUS = ("SelectionSlider", "Dropdown", "ToggleButtons", "RadioButtons")


def rows_by_hand() -> tuple[list[Any], fl.Device]:
    """Records of 24 points, measured at 1.2 times their estimate, and their device."""
    device = fl.device("h200")
    points = grid(**SIZES, precision=["fp32", "bf16"], phase=["prefill", "decode"])
    return [record(point, device, 1.2) for point in points], device


def series(name: str, ms: int) -> Series:
    """Fifty samples around so many milliseconds."""
    ns = [ms * 1_000_000 + 10_000 * (n % 7) for n in range(50)]
    return Series.naive(name, [each / 1e9 for each in ns], first=1)


def point() -> Point:
    """A point on which every slider has somewhere to go."""
    return grid(model="llama-3.2-1b", prompt_len=512)[0]


def tiny_llama() -> Any:
    """A model of two layers whose rows groups of 16 divide, and groups of 64 do not."""
    from fastlab.models import build

    shape = grid(model="tiny-llama", heads=4, kv_heads=2, head_dim=16)[0].shape
    return build(Point(shape))


def _sweep() -> Any:
    records, device = rows_by_hand()
    return fl.explorers.layers_by_hidden(fl.table(records), device, "by hand")


MAKERS: dict[str, Callable[[], Any]] = {
    "counts": lambda: fl.explorers.counts(point()),
    "cutting": lambda: fl.explorers.cutting(
        {"large": fl.grid(**CUT, layers=8)[0], "other": fl.grid(**CUT, layers=12)[0]},
        *(fl.device("h200"), fl.device("t4")),
    ),
    "depth": lambda: fl.explorers.depth(point(), [fl.device("t4"), fl.device("h200")]),
    "held_out": lambda: fl.explorers.held_out(*rows_by_hand()),
    "layers_by_hidden": _sweep,
    "palettes": lambda: fl.explorers.palettes(tiny_llama()),
    "paying": lambda: fl.explorers.paying(point(), fl.device("h200")),
    "target": lambda: fl.explorers.target(fl.tables.case_points(), fl.device("t4")),
    "kv_growth": lambda: fl.explorers.kv_growth("llama-3.2-1b", fl.device("h200")),
    "samples_taken": lambda: fl.explorers.samples_taken(
        series("naive loop", 9), series("ours", 10), "by hand"
    ),
}


def inside(widget: Any) -> list[Any]:
    """All widgets in a box, in order."""
    children = getattr(widget, "children", ())
    return [one for child in children for one in (child, *inside(child))]


def kind(widget: Any) -> str:
    return type(widget).__name__


def others(control: Any) -> list[Any]:
    """Values to try on a control: two others, where it has so many."""
    if kind(control) in MENUS:
        options = [o[1] if isinstance(o, tuple) else o for o in control.options]
        return [o for o in (options[0], options[-1]) if o != control.value]
    return [v for v in (control.min, control.max) if v != control.value]


def redraws(box: Any) -> dict[str, list[int]]:
    """For each control, how many redraws each change of it made."""
    widgets = inside(box)
    seen: list[str] = []
    for picture in (w for w in widgets if kind(w) == "HTML"):
        picture.observe(lambda change: seen.append(change["new"]), names="value")
    found: dict[str, list[int]] = {}
    for control in (w for w in widgets if kind(w) in (*SLIDERS, *MENUS)):
        start = control.value
        for value in [*others(control), start]:
            before = len(seen)
            control.value = value
            found.setdefault(control.description, []).append(len(seen) - before)
    assert all("<figure>" in markup and "alt=" in markup for markup in seen)
    return found


def main() -> None:
    """Move everything, and print what was redrawn."""
    import ipywidgets

    made = {name: redraws(maker()) for name, maker in MAKERS.items()}
    print(json.dumps({"version": ipywidgets.__version__, "redraws": made}))


if __name__ == "__main__":
    main()
