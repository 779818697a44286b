"""Scenarios: lengths by percentile, files checked field by field, workloads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import fastlab as fl
from fastlab.spec.scenarios import FILE, Arrivals, Lengths, Targets, _scenario

CHAT = Lengths(p10=207, p50=1020, p90=2734, p99=4142)
KEYS = st.sampled_from(
    [1, "p50", "fixed", "low", "high", "rate", "cv", "users", "loss"]
)
NAMES = (
    *("customer-service", "financial-sentiment", "re-ranking", "live-translation"),
    *("assistant", "medical-triage", "in-car-voice", "code-completion"),
)


def test_the_eight_are_there_and_each_number_says_where_it_is_from():
    assert tuple(fl.scenarios()) == NAMES
    for one in fl.scenarios().values():
        assert set(one.sources) == {"prompt", "answer", "arrivals", "targets", "floor"}
        assert 0 < one.floor < 0.1


def test_lengths_go_through_their_percentiles():
    assert [CHAT.at(q) for q in (10, 50, 90, 99)] == [207, 1020, 2734, 4142]
    # Half way between two normal quantiles: the geometric mean of the two lengths.
    z = 1.2815515655446004 / 2
    q = 50 * (1 + math.erf(z / math.sqrt(2)))
    assert CHAT.at(q) == round(math.sqrt(1020 * 2734))
    assert Lengths(low=30, high=64).at(50) == 47
    assert Lengths(fixed=7).at(3) == Lengths(fixed=7).mean == 7


@given(st.lists(st.integers(1, 10**6), min_size=4, max_size=4), st.floats(0, 100))
def test_longer_percentiles_are_longer(four, q):
    lengths = Lengths(
        **dict(zip(("p10", "p50", "p90", "p99"), sorted(four), strict=True))
    )
    assert 1 <= lengths.at(q) <= lengths.at(min(100.0, q + 5))


def test_samples_have_the_percentiles_and_the_mean():
    drawn = np.array(CHAT.sample(np.random.default_rng(0), 20_000))
    assert np.percentile(drawn, [10, 50, 90]) == pytest.approx(
        [207, 1020, 2734], rel=0.05
    )
    assert drawn.mean() == pytest.approx(CHAT.mean, rel=0.02)


def test_a_workload_has_the_lengths_of_the_targets_percentile():
    work = fl.scenario("customer-service").workload(
        fl.ModelShape.preset("llama-3.1-8b")
    )
    assert (work.phase, work.batch) == ("generate", 1)
    assert (work.prompt_len, work.new_tokens) == (4142, 601)
    assert fl.scenario("assistant").workload(fl.ModelShape.preset("gpt2")).batch == 16


def test_lengths_are_cut_to_the_models_positions_and_that_is_said():
    one, gpt2 = fl.scenario("customer-service"), fl.ModelShape.preset("gpt2")
    work = one.workload(gpt2)
    assert work.positions == 1024 and work.new_tokens == 512
    said = one.clipped(gpt2)
    assert (
        said
        == "cut to the model's 1024 positions: prompt 4142 to 513, answer 601 to 512"
    )
    assert one.clipped(fl.ModelShape.preset("llama-3.1-8b")) == ""


@pytest.mark.parametrize("name", NAMES)
def test_each_fits_a_model_that_can_do_it(name):
    for model in ("gpt2", "llama-3.2-1b"):
        shape = fl.ModelShape.preset(model)
        assert fl.Point(shape, fl.scenario(name).workload(shape)).key


def test_what_writes_nothing_is_a_prefill():
    bert = fl.ModelShape("bert", layers=2, hidden=64)
    assert fl.scenario("re-ranking").workload(bert).batch == 100
    assert fl.scenario("financial-sentiment").workload(bert).phase == "prefill"
    with pytest.raises(ValueError, match="writes no text, and scenario='assistant'"):
        fl.scenario("assistant").workload(bert)


def test_an_unknown_one_is_told_what_it_may_have_meant():
    with pytest.raises(ValueError, match="did you mean customer-service"):
        fl.scenario("chat")
    with pytest.raises(ValueError, match="did you mean code-completion"):
        fl.scenario("code-compl")


def own(tmp_path, **changes):
    """A file of one's own: in-car-voice with some of its parts changed."""
    told = yaml.safe_load(FILE.read_text())["in-car-voice"] | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"mine": told}))
    return str(path)


def test_a_file_of_ones_own(tmp_path):
    prompt = {"fixed": 12, "source": "assumption"}
    mine = fl.scenario(own(tmp_path, prompt=prompt))
    assert (mine.name, mine.prompt.at(99)) == ("mine", 12)


@pytest.mark.parametrize(
    ("part", "told", "said"),
    [
        ("prompt", {"fixed": -1}, "mine.yaml: mine: prompt: fixed=-1 must be a whole"),
        ("prompt", {"fixed": 1, "low": 2}, "low fixed given: it must be p10 p50"),
        ("answer", {"low": 9, "high": 2}, "low=9 must be at most high=2"),
        ("prompt", {"low": 0, "high": 9}, "mine: prompt: 0 tokens at the least"),
        ("prompt", {"p5": 3}, "unknown Lengths field 'p5'"),
        ("arrivals", {"rate": 0}, "arrivals: rate=0 must be a finite number > 0"),
        ("arrivals", {"rate": 1, "users": 2}, "one of the two must be given"),
        ("targets", {"percentile": 99}, "one of ttft_s, tpot_s, e2e_s"),
        ("targets", {"ttft_s": 1, "percentile": 100}, "percentile=100 must be below"),
        ("targets", {"ttft": 1}, "unknown Targets field 'ttft'; did you mean ttft_s"),
        ("floor", {"loss": "2 %"}, "floor: loss='2 %' must be a finite number >= 0"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(tmp_path, part, told, said):
    with pytest.raises(ValueError) as error:
        fl.scenario(own(tmp_path, **{part: {**told, "source": "assumption"}}))
    assert said in str(error.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.sampled_from(["prompt", "answer", "arrivals", "targets", "floor"]), VALUES)
def test_whatever_stands_in_a_file_is_read_or_refused_in_words(part, value):
    told = yaml.safe_load(FILE.read_text())["assistant"]
    value = {**value, "source": "me"} if isinstance(value, dict) else value
    try:
        said = _scenario("mine", {**told, part: value}, "mine.yaml").sources[part]
    except ValueError as error:
        said = str(error)
    assert said == "me" or said.startswith(f"mine.yaml: mine: {part}: ")


def test_each_part_says_its_source(tmp_path):
    with pytest.raises(ValueError, match="prompt: source=None must be a text"):
        fl.scenario(own(tmp_path, prompt={"fixed": 1}))
    with pytest.raises(ValueError, match="scenario='absent"):
        fl.scenario("absent.yaml")


def test_parts_are_checked_alone_too():
    with pytest.raises(ValueError, match="rate=None and users=None"):
        Arrivals()
    assert Targets(tpot_s=0.1).seconds == {"tpot_s": 0.1}
    with pytest.raises(ValueError, match="percentile from 0 to 100"):
        CHAT.at(101)
