"""The explorer of notebook 09: bits and rows of a palette against bytes and SQNR."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fastlab.spec.sharing import BITS, Sharing, palette_bytes
from fastlab.view.figure import show
from fastlab.view.plots.sharing import palette as drawn
from fastlab.view.tables.sharing import VALUE, palette, sqnr, uniform, uniform_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipywidgets import VBox
    from torch import Tensor, nn

ROWS = (1, 4, 16, 64, 0)  # output rows that share a table; 0 = all


def palettes(model: nn.Module) -> VBox:
    """Weight, bits and rows that share a table, against a histogram with the table.

    Recomputes only: k-means on one weight of the model's layers.
    """
    import ipywidgets as widgets

    weights = layers_of(model)
    controls = {
        "name": widgets.Dropdown(options=list(weights), description="weight"),
        "bits": widgets.SelectionSlider(options=BITS, value=3, description="bits"),
        "rows": widgets.SelectionSlider(
            options=[(str(r) if r else "all", r) for r in ROWS],
            value=0,
            description="rows",
        ),
    }
    picture = widgets.HTML()

    @lru_cache(maxsize=64)
    def markup(name: str, bits: int, rows: int) -> str:
        return shown(name, weights[name], bits, rows)

    def redraw(_: Any = None) -> None:
        state = {name: control.value for name, control in controls.items()}
        picture.value = markup(**state)

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return widgets.VBox([widgets.HBox(list(controls.values())), picture])


def layers_of(model: nn.Module) -> Mapping[str, Tensor]:
    """The weights (n, k) of the layers' linears by short name: "0 self_attn.q_proj"."""
    from fastlab.shrink import parts

    found = {}
    for name in parts.linear_names(model, "layers"):
        module, pieces = model.get_submodule(name), name.split(".")
        at = next(n for n, piece in enumerate(pieces) if piece.isdigit())
        short = f"layer {pieces[at]}: {'.'.join(pieces[at + 1 :])}"
        found[short] = parts.dense_weight(module).detach()
    return found


def shown(name: str, weight: Tensor, bits: int, rows: int) -> str:
    """The explorer's figure in one state as HTML, or why there is none."""
    n, k = weight.shape
    if rows and n % rows:
        return f"<p><b>{rows} rows do not divide the {n} of {name}</b>: move rows.</p>"
    own = Sharing(bits, rows)
    back, tables = palette(weight, bits, rows)
    even = uniform(weight, bits, rows * k)
    stored, few = palette_bytes(own, n, k, VALUE), (rows or n)
    words = (
        f"{name}, {n} x {k}: indices of {bits} bits and {len(tables)} table"
        f"{'s' * (len(tables) > 1)} of {2**bits} bf16 values take {stored:,} bytes, "
        f"{8 * stored / n / k:.2f} bits a weight, {2 * n * k / stored:.1f} times less "
        f"than bf16 (int4-g64: {uniform_bytes(4, n, k):,}). "
        f"SQNR {sqnr(weight, back):.1f} dB; with values evenly spaced over the same "
        f"rows {sqnr(weight, even):.1f} dB."
    )
    first = weight[:few].flatten().tolist()
    levels = sorted(set(even[:few].flatten().tolist()))
    what = "all rows" if not rows else f"the first {rows} rows, which share a table"
    title = f"{name}: weights of {what}"
    if rows == 1:
        title = f"{name}: weights of the first row, which has a table of its own"
    figure = drawn(first, tables[0].tolist(), levels, title)
    text = f"Histogram of weights with the values of their table. {words}"
    return show(figure, alt=text, caption=words).markup
