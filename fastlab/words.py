"""Numbers as people read them: one way to write each kind, wherever it stands."""

from __future__ import annotations

import math

SAME = 1.005  # a smaller factor is written "same"
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def digits(value: float) -> str:
    """Three significant digits: 0.0123, 4.57, 1,230; two below 1e-4: 5.0e-08."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def times(ratio: float) -> str:
    """A ratio read the same way on both sides of one: 1.25 is ×1.25, 0.8 is ÷1.25."""
    near = ratio > 1 / SAME  # what would be written ÷1.00 too
    return f"×{digits(max(ratio, 1.0))}" if near else f"÷{digits(1 / ratio)}"


def factor(ratio: float) -> str:
    """A factor without needless digits: ×4, ÷512, ×1.6, same."""
    if 1 / SAME < ratio < SAME:
        return "same"
    text = times(ratio)
    return text.rstrip("0").removesuffix(".") if "." in text else text


def percent(share: float) -> str:
    """A share in per cent, to a tenth where it is small: 21 %, 6.1 %, 0.13 %."""
    if not math.isfinite(share):
        return ""
    value = 100 * share
    places = 0 if abs(value) >= 10 or not value else 1 if abs(value) >= 1 else 2
    return f"{value:.{places}f} %"


def more(ratio: float) -> str:
    """A ratio as what it is more or less: +53 %, −0.77 %; "" of one, or of none."""
    if ratio in (1, None) or not math.isfinite(ratio):
        return ""
    return f"{'+' if ratio > 1 else '−'}{percent(abs(ratio - 1))}"


def si(value: float, unit: str = "") -> str:
    """A number with an SI prefix and three significant digits: 1.24 G, 512 MB."""
    step = 0
    while abs(value) >= 999.5 and step < len(_PREFIXES) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.3g} {_PREFIXES[step]}{unit}".rstrip()


def power(value: float) -> str:
    """Three significant digits and a power of ten: 1.45·10¹⁰."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_RAISED)}"


def plain(value: float) -> str:
    """A tick's number: as short as it can be, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def printable(text: str) -> str:
    """The text with what a terminal would obey, as escape sequences, written out."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def one_line(text: str, most: int = 1000, last: int = 200) -> str:
    """The text in one printable line, where longer without its middle: hints end it."""
    if len(text) > 2 * most:
        text = f"{text[:most]} {text[-most:]}"
    line = printable(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - last]} ... {line[-last:]}"
