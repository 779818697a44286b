"""The comparison with what is pinned sees what is lost, and nothing else."""

import pandas as pd
import pytest

from tests.pins import HERE, differences, numbers, pinned, tolerance, untold

OLD = pd.DataFrame(
    {
        "name": ["a", "a", "b", None],
        "size": [1, 2, 1, 3],
        "measured_ms": [1.0, 2.0, 3.0, None],
    }
)


def test_the_same_rows_in_any_order_with_more_columns_are_the_same():
    new = OLD.sample(frac=1, random_state=1).assign(more=1)
    assert differences(OLD, new, {}) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"measured_ms": [1.0, 2.0, 3.000001, None]},
            "'measured_ms' differs by 3.3e-07",
        ),
        ({"measured_ms": [1.0, 2.0, 3.0, 4.0]}, "'measured_ms' differs by inf"),
        ({"name": ["a", "a", "c", None]}, "'name' differs by inf: c, not b"),
        ({"size": [1, 2, 1, 4]}, "'size' differs by 0.25: 4, not 3"),
    ],
)
def test_another_value_is_told(change, words):
    found = differences(OLD, OLD.assign(**change).iloc[::-1], {})
    assert len(found) == 1 and words in found[0]


def test_values_that_changed_places_are_told():
    new = OLD.assign(measured_ms=[2.0, 1.0, 3.0, None])
    assert "'measured_ms' differs by 0.5" in differences(OLD, new, {})[0]


def test_missing_columns_and_rows_are_told():
    new = OLD.drop(columns="size").head(3)
    assert differences(OLD, new, {}) == ["column 'size' is missing", "3 rows, not 4"]


def test_a_column_may_have_another_name_and_unit():
    new = OLD.assign(label=OLD["name"], s=OLD["measured_ms"] / 1e3)
    new = new.drop(columns=["name", "measured_ms"])
    renames = {"name": "label", "measured_ms": ["s", 1e-3]}
    assert differences(OLD, new, renames) == []
    assert len(differences(OLD, new, {})) == 2


def test_of_live_columns_only_the_name_is_kept_and_loose_ones_may_move():
    new = OLD.assign(measured_ms=9.0, size=OLD["size"] * (1 + 1e-6))
    marks = {"live": ["measured_ms"], "loose": ["size"]}
    assert differences(OLD, new, {}, **marks) == []
    assert differences(OLD, new.drop(columns="measured_ms"), {}, **marks) == [
        "column 'measured_ms' is missing"
    ]


def test_what_is_pinned_equals_itself():
    for path in [*HERE.glob("figures/*.csv"), *HERE.glob("tables/*.csv")]:
        rows, entry = pinned(path.stem)
        assert differences(rows, rows.iloc[::-1], {}, **tolerance(entry)) == []


def test_more_rows_than_are_pinned_do_not_matter():
    more = OLD.assign(name="curve", size=7)
    assert differences(OLD, pd.concat([more, OLD]), {}) == []


def test_numbers_that_an_alt_text_no_longer_tells():
    assert set(numbers("1,024 tokens: 6.83 ms, ÷1.19")) == {"1024", "6.83", "1.19"}
    assert "6.83" in untold("00_start_here_pairs", "5.75 ms")
