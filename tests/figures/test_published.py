"""What others measured: marks with a ring, against numbers that they printed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import fastlab as fl
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import points
from fastlab.figures.panels import Axis, Panel
from fastlab.figures.published import X, Y, by_width, ratios, ringed, under_one_roof
from tests.cells import run_cells
from tests.figures.checks import faults


@pytest.fixture(scope="module")
def rows():
    every = fl.published()
    some = every[every["device"].isin(["NVIDIA A100-SXM4-80GB", "Tesla T4"])]
    each = some.groupby("device")
    made = [fl.estimated(own, fl.device(str(name))) for name, own in each]
    return pd.concat(made, ignore_index=True)


def legend_of(figure: Figure) -> dict[str, int]:
    """Names in the key, and of how many artists each is made."""
    handles, names = figure.draw().axes[0].get_legend_handles_labels()
    counts = [len(one) if isinstance(one, tuple) else 1 for one in handles]
    return dict(zip(names, counts, strict=True))


def test_a_published_mark_has_a_ring_and_is_told(rows):
    own = rows[rows["software"] == "gpt-fast"]
    ms = Axis("ms", "log")
    layers = [points(own, "estimated_ms", "measured_ms", who) for who in ("a", "b")]
    layers[0] = ringed(layers[0])
    figure = Figure([Panel(ms, ms, layers, key="upper left")], "two kinds of marks")
    assert legend_of(figure) == {"a": 2, "b": 1}
    ring = figure.draw().axes[0].lines[1]
    assert (ring.get_marker(), ring.get_markersize()) == ("o", 0.45 * 8)


def test_the_roof_of_a_decode_step_is_its_bandwidth(rows):
    """gpt-fast prints 1,397.31 GB/s for llama-2-7b in bf16; an A100 has 2,039."""
    figure = under_one_roof(rows)
    of = figure.rows["model"].eq("llama-2-7b") & figure.rows["software"].eq("gpt-fast")
    row = figure.rows[of & figure.rows["precision"].eq("bf16")].iloc[0]
    assert row[Y] / row[X] == pytest.approx(1397.31 / 2039, rel=0.02)
    calls = figure.rows[figure.rows["software"].notna()]
    assert set(calls["phase"]) == {"prefill", "decode"}
    assert (calls[Y] <= 1.02 * np.minimum(1, calls[X])).all()  # none above the roof
    assert faults(figure) == []


def test_ratios_count_what_lies_in_its_interval(rows):
    made = rows.head(3).assign(measured_ms=1.0, estimated_ms=1.0, device="one")
    made = made.assign(estimated_low_ms=[0.5, 2.0, 1.0], estimated_high_ms=4.0)
    figure = ratios(made.assign(ratio=[1.0, 1.5, 0.5]))
    assert figure.panels[0].notes[0][1] == ["×1.00"]
    assert figure.panels[0].notes[1][1] == ["2 of 3"]  # the second is below its own
    assert "1 of 3 within ×1.25, 2 in their interval" in figure.title
    whole = ratios(rows, "software")
    assert faults(whole) == []
    assert {"gpt-fast", "TorchScript"} < set(whole.panels[0].y.names)


def test_the_price_of_a_layer_at_its_width(rows):
    """bert-large on a T4: 16 x 512 tokens, 24 layers."""
    own = rows[rows["software"] == "PyTorch 2.1, eager"]
    figure = by_width(own)
    row = figure.rows[figure.rows["hidden"] == 1024].iloc[0]
    theirs = own[own["model"].eq("bert-large") & own["batch"].eq(16)].iloc[0]
    assert row["measured_ms"] == pytest.approx(theirs["value"] / 24 / 8.192)
    assert row["batch"] == 16  # the largest of two
    assert faults(figure) == []


@pytest.mark.parametrize(
    ("notebook", "said"), [("03", "published calls"), ("05", "published prefills")]
)
def test_the_lessons_draw_them(notebook, said):
    figure = run_cells(notebook, "others", pd=pd)["run"].shown["published"]
    assert said in figure.title and "published" in figure.tell()
    assert figure.rows["source"].dropna().str.startswith("https://").all()
