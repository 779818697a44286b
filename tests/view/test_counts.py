"""Tables of counts: their sums, torch's agreement, the cache, the article's lines."""

from __future__ import annotations

import pytest

import fastlab as fl
from fastlab.cost.operations import PARTS, total
from fastlab.view.numbers import factor, power, si
from fastlab.view.tables import count as counts


@pytest.fixture(scope="module")
def point():
    return fl.grid(model="llama-3.2-1b", prompt_len=512, precision="bf16")[0]


def test_the_operations_add_up_in_the_last_line(point):
    found = counts.operations(point)
    last, rest = found.iloc[-1], found.iloc[:-1]
    assert last["operation"] == "all"
    assert last["GFLOP"] == pytest.approx(total(point, "flops") / 1e9)
    assert last["share"] == pytest.approx(1)
    assert rest["weights MB"].sum() == pytest.approx(last["weights MB"])
    assert set(rest["part"]) == {"", *PARTS}
    shares = rest.groupby("part")["share"].sum()
    assert shares["attention"] == pytest.approx(0.0264, abs=1e-4)


def test_torch_agrees_on_every_point():
    points = fl.grid(model=["tiny-gpt2", "tiny-llama"], phase=["prefill", "decode"])
    found = counts.against_torch(points)
    assert list(found["ratio"]) == [1.0] * 4
    assert list(found["parameters"]) == list(found["torch_parameters"])
    assert list(found["phase"]) == ["prefill", "decode"] * 2
    assert len(set(found["device"])) == 1


def test_the_counters_are_one_line_each(monkeypatch):
    kept = [c for c in _counters().COUNTERS if c[1] == "torch"]
    strange = ("theirs", "no_such_package_at_all", kept[0][2])
    monkeypatch.setattr(_counters(), "COUNTERS", [*kept, strange])
    found = counts.counters(fl.grid(model="tiny-llama", prompt_len=16)[0])
    rows = found.set_index("counter")
    assert rows.loc["torch on meta"].tolist() == ["1.0000", "1.0000"]
    assert rows.loc["theirs"].tolist() == ["not installed"] * 2


def _counters():
    from fastlab.clock import counters

    return counters


def test_the_cache_by_hand(point):
    """16 layers, keys and values, 64 numbers a head, 2 bytes: 4,096 B a KV head."""
    found = counts.cache(point, lengths=(1000,)).set_index("KV heads")
    assert list(found.index) == [32, 8, 1]
    assert found.loc[8, "KB a position"] == 8 * 4.096
    assert found.loc[1, "MB at 1,000"] == pytest.approx(4.096)
    weights = 2 * fl.parameters(point.shape)
    assert found.loc[8, "outweighs"] == round(weights / (8 * 4096))


def test_the_cache_of_a_family_without_gqa_has_one_line():
    assert len(counts.cache(fl.grid(model="gpt2")[0])) == 1


def test_shares_are_whole_and_attention_grows_with_the_prompt(point):
    found = counts.shares(point, "prompt_len", [128, 4096])
    assert found[list(PARTS)].sum(axis=1).tolist() == pytest.approx([1, 1])
    short, long = found["attention"] * found["GFLOP"]
    assert long / short == pytest.approx(32**2)
    with pytest.raises(ValueError, match="hidden=100 must be a multiple of 64"):
        counts.shares(point, "hidden", [100])


def test_a_decode_step_does_about_one_flop_for_each_byte():
    points = fl.grid(
        model="llama-3.2-1b", precision="bf16", phase=["prefill", "decode"]
    )
    found = counts.moved(points)
    assert list(found["phase"]) == ["prefill", "decode"]
    assert found["FLOP per byte"][1] == pytest.approx(1.0, abs=0.05)
    assert found["FLOP per byte"][0] > 50
    assert found["weights"][0] == pytest.approx(2.473, abs=1e-3)


def test_the_article_is_wrong_in_every_line():
    rows = fl.audit_article().set_index("the article's line")
    told = rows[["it prints", "that gives", "right"]]
    assert told.iloc[0].tolist() == ["1.25·10⁹", "1.45·10¹⁰", "2.92·10¹¹"]
    assert told.iloc[1].tolist() == ["2.50·10⁹", "2.90·10¹⁰", "2.92·10¹¹"]
    assert told.iloc[2].tolist() == ["1.50·10⁹", "1.61·10⁹", "7.85·10¹⁰"]
    assert told.iloc[3].tolist() == ["1.88·10⁷", "2.01·10⁸", "7.85·10¹⁰"]
    assert told.iloc[4].tolist() == ["thousands", "×143", "×3.72"]
    assert told.iloc[5].tolist() == ["n³", "×8", "×4"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (999.6, "1 k"), (1.2358e9, "1.24 G"), (5e20, "500 E")],
)
def test_si_prefixes(value, text):
    assert si(value) == text


def test_numbers_in_words():
    assert si(16.8e6, "B") == "16.8 MB"
    assert power(14_495_514_624) == "1.45·10¹⁰"
    assert power(0.00123) == "1.23·10⁻³"
    told = [factor(f) for f in (4, 1 / 512, 1.6, 1.001, 100)]
    assert told == ["×4", "÷512", "×1.6", "same", "×100"]


def test_neat_tables_have_few_digits_and_no_zeros(point):
    page = fl.neat(counts.operations(point)).to_html()
    assert ">21.1%<" in page
    assert ">604<" in page
    assert ">0.0<" not in page
    page = fl.neat(fl.audit_article()).to_html()
    assert ">thousands<" in page
    rows = counts.against_torch(fl.grid(model="tiny-llama"))
    assert ">1.0000<" in fl.neat(rows).to_html()
