"""Tables as people read them: text to the left, few digits, zeros left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastlab.view.words import digits

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler


def neat(table: pd.DataFrame, decimals: int | None = None, caption: str = "") -> Styler:
    """A table for reading: three significant digits, thousands apart, zeros blank.

    Columns named share are per cent, columns named ratio have four decimals. With
    `decimals` fractions have so many, and zeros are shown: for tables of errors. The
    caption stands above.
    """
    texts: list[Any] = list(table.select_dtypes(exclude="number").columns)
    style = table.style.format({name: _writer(name, decimals) for name in table}).hide()
    style = style.set_properties(subset=texts, **{"text-align": "left"})
    if caption:
        style = style.set_caption(caption)
    heads: list[Any] = [{"selector": "th", "props": "text-align: left"}]
    return style.set_table_styles(dict.fromkeys(texts, heads), overwrite=False)


def your_guess(guess: object) -> str:
    """A guess as the end of a caption, "; you guessed 2"; nothing where none is."""
    return "" if guess is None else f"; you guessed {guess}"


def _writer(column: object, decimals: int | None) -> Callable[[Any], str]:
    special = {"share": "{:.1%}", "ratio": "{:.4f}", "spearman": "{:.2f}"}
    if column in special:
        return lambda value: special[str(column)].format(value) if value else ""
    return _written if decimals is None else lambda value: _fixed(value, decimals)


def _fixed(value: Any, decimals: int) -> str:
    if isinstance(value, str) or value is None:
        return value or ""
    if value != value:
        return ""
    return f"{value:,.{decimals}f}" if isinstance(value, float) else f"{value:,}"


def _written(value: Any) -> str:
    if isinstance(value, str) or value is None:
        return value or ""
    if not value or value != value:
        return ""
    whole = float(value).is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole else digits(float(value))
