"""Large numbers as people read them: powers of ten, and SI prefixes."""

from __future__ import annotations

from fastlab.view.words import times

SAME = 1.005  # a smaller factor is written "same"


def power(value: float) -> str:
    """A large number with three significant digits and a power of ten: 1.45·10¹⁰."""
    mantissa, exponent = f"{value:.2e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}·10{raised}"


_UNITS = ("", "k", "M", "G", "T", "P", "E")


def si(value: float, unit: str = "") -> str:
    """A number with an SI prefix and three significant digits: 1.24 G, 512 MB."""
    step = 0
    while abs(value) >= 999.5 and step < len(_UNITS) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.3g} {_UNITS[step]}{unit}".rstrip()


def factor(ratio: float) -> str:
    """A factor without needless digits: ×4, ÷512, ×1.6, same."""
    if 1 / SAME < ratio < SAME:
        return "same"
    text = times(ratio)
    return text.rstrip("0").removesuffix(".") if "." in text else text
