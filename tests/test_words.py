"""One way to write each kind of number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlab.words import (
    digits,
    factor,
    more,
    one_line,
    percent,
    plain,
    power,
    si,
    times,
)


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (digits, 0.01234, "0.0123"),
        (digits, 4.567, "4.57"),
        (digits, 99.96, "100.0"),
        (digits, 1234.5, "1,234"),
        (digits, 0, "0"),
        (digits, 1.2e-4, "0.000120"),
        (digits, -5.02e-8, "-5.0e-08"),
        (times, 1.25, "×1.25"),
        (times, 0.8, "÷1.25"),
        (factor, 4.0, "×4"),
        (factor, 1 / 512, "÷512"),
        (factor, 1.6, "×1.6"),
        (factor, 1.001, "same"),
        (percent, 0.211, "21 %"),
        (percent, 0.061, "6.1 %"),
        (percent, 0.0013, "0.13 %"),
        (percent, 0.0, "0 %"),
        (percent, float("nan"), ""),
        (more, 1.531, "+53 %"),
        (more, 0.9923, "−0.77 %"),
        (more, 1.0, ""),
        (power, 1.45e10, "1.45·10¹⁰"),
        (power, 3.2e-7, "3.20·10⁻⁷"),
        (plain, 0.5, "0.5"),
        (plain, 32000, "32,000"),
    ],
)
def test_it_is_written(write, value, text):
    assert write(value) == text


def test_prefixes_have_three_digits():
    assert si(16_777_216, "B") == "16.8 MB"
    assert si(999.9, "B") == "1 kB"
    assert si(1.24e9) == "1.24 G"


@given(st.floats(1e-6, 1e6))
def test_a_ratio_and_its_inverse_read_alike(ratio):
    assert times(ratio)[1:] == times(1 / ratio)[1:] or 0.99 < ratio < 1.01


def test_a_long_line_keeps_its_end():
    said = one_line("x" * 1500 + "\n" + "y" * 1500 + "; did you mean z?")
    assert said.startswith("x" * 800 + " ... ") and said.endswith("y; did you mean z?")
    assert len(said) == 1005
    assert one_line("a \x1b[1m\n b") == "a \\x1b[1m b"
