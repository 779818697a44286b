"""Figures in notebooks: an image with alt text, a caption, and its rows folded away."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SHORTEST_ALT = 40


@dataclass(frozen=True)
class Shown:
    """A figure as HTML: image, alt text, caption, and its rows one click away."""

    markup: str
    alt: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return f"[figure] {self.alt}"


def show(
    figure: Figure,
    alt: str,
    caption: str = "",
    rows: pd.DataFrame | None = None,
    save: Path | None = None,
) -> Shown:
    """A matplotlib figure for a notebook, readable without seeing it; closes it.

    `alt` tells what the figure shows (at least 40 characters, else ValueError); rows
    are folded away under it; `save` also writes the PNG. Output metadata for alt text
    is ignored by JupyterLab and nbconvert, hence HTML.
    """
    if len(alt.strip()) < SHORTEST_ALT:
        raise ValueError(
            f"alt={alt!r} must say, in {SHORTEST_ALT} characters or more: kind of "
            "chart, axes with units, the comparison that matters, device"
        )
    png = _png(figure)
    if save is not None:
        save.write_bytes(png)
    image = base64.b64encode(png).decode()
    parts = [
        f'<figure><img alt="{html.escape(alt)}" style="max-width:100%" '
        f'src="data:image/png;base64,{image}">',
        f'<figcaption style="color:#666">{html.escape(caption)}</figcaption>',
        _details(rows) if rows is not None else "",
        "</figure>",
    ]
    return Shown("".join(parts), alt)


def _png(figure: Figure) -> bytes:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()


def _details(rows: pd.DataFrame) -> str:
    body = rows.to_html(index=False, float_format=lambda v: f"{v:.4g}", border=0)
    return f"<details><summary>the rows of this figure</summary>{body}</details>"
