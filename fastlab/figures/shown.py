"""A figure in a notebook: image, alt text, caption, and its rows folded away."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from fastlab.figures.grammar import Figure

PIXELS = 2  # of the image, for one of the page: sharp on a projector


@dataclass(frozen=True)
class Shown:
    """A figure as HTML: image, alt text, caption, and its rows one click away."""

    markup: str
    alt: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return f"[figure] {self.alt}"


def show(figure: Figure, caption: str = "", save: Path | None = None) -> Shown:
    """A figure for a notebook, readable without seeing it; `save` writes its PNG too.

    Output metadata for alt text is ignored by JupyterLab and nbconvert, hence HTML.
    """
    png = png_of(figure)
    if save is not None:
        save.write_bytes(png)
    alt, width = figure.tell(), int.from_bytes(png[16:20], "big") // PIXELS
    words = "; ".join(part for part in (caption, figure.note) if part)
    parts = [
        f'<figure><img alt="{html.escape(alt)}" width="{width}" '
        'style="max-width:100%" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">',
        f'<figcaption style="color:#666">{html.escape(words)}</figcaption>',
        _folded(figure.table),
        "</figure>",
    ]
    return Shown("".join(parts), alt)


def png_of(figure: Figure) -> bytes:
    """The picture as PNG, two pixels for one of the page."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):
        picture = figure.draw()
        picture.savefig(buffer, format="png", dpi=100 * PIXELS, bbox_inches="tight")
    return buffer.getvalue()


def _folded(rows: pd.DataFrame) -> str:
    if not len(rows.columns):
        return ""
    style: dict[str, Any] = {"index": False, "border": 0, "na_rep": ""}
    body = rows.to_html(float_format=lambda v: f"{v:.4g}", **style)
    return f"<details><summary>the rows of this figure</summary>{body}</details>"
