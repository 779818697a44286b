"""Explorers under ipywidgets 8, and 7.7 (Colab's): what is shown is what is drawn.

`make` puts 7.7.1 into .venv/widgets7; the last test runs all others with it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from fastlab.figures.explorer import WIDGET, choices, explore
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import points
from fastlab.figures.panels import Axis, Panel
from tests.figures.explorers import MAKERS

ROOT, OLD = Path(__file__).parents[2], Path(sys.prefix) / "widgets7"
SIZES = {"hidden": [64, 128, 512, 768], "batch": [1, 4], "family": ["bert", "llama"]}


def drawn(**state):
    rows = pd.DataFrame({"x": [1.0], "y": [2.0]})
    panel = Panel(Axis("x"), Axis("y"), [points(rows, "x", "y", "one")])
    return Figure([panel], " ".join(map(str, state.values())))


def refusing(hidden):
    return drawn(hidden=hidden) if hidden > 1 else f"{hidden} is < 2"


def raising(hidden):
    if hidden == 1:
        raise ValueError("1 is < 2")
    return drawn(hidden=hidden)


def following():
    return explore(
        drawn,
        {"value": 512},
        field=list(SIZES),
        value=lambda state: SIZES[state["field"]],
        again={"as a text": 1, "as another": 2},
        twice=lambda state: (1, len(SIZES[state["field"]])),
    )


EXPLORERS = {"following": following, **MAKERS}


def test_every_notebook_has_one():
    """Each stands in the cell tagged "widget" of its notebook."""
    books = [nbformat.read(p, 4) for p in (ROOT / "notebooks").glob("*.ipynb")]
    tags = [tag for b in books for c in b.cells for tag in c.metadata.get("tags", [])]
    assert tags.count("widget") == len(books) == len(MAKERS)


def watched(explorer):
    """The box, and a list that grows by the markup of every redraw."""
    box, seen = explorer.widget(), []
    box.picture.observe(lambda change: seen.append(change["new"]), names="value")
    return box, seen


def shown(box):
    return {name: control.value for name, control in box.controls.items()}


def title(box):
    return re.search('alt="([^".]*)', box.picture.value)[1]


def from_browser(control, index):
    """What a slider or a menu in a browser sends."""
    control.set_state({"index": index})


@pytest.mark.parametrize("name", EXPLORERS)
@pytest.mark.parametrize("how", ["python", "browser"])
def test_each_control_at_each_end_draws_its_state_once(name, how):
    explorer = EXPLORERS[name]()
    box, seen = watched(explorer)
    for control in box.controls.values():
        for end in (-1, 0, -1):
            before, last = len(seen), len(control.options) + end if end else end
            if control.index == last:
                continue
            if how == "browser":
                from_browser(control, last)
            else:
                control.value = list(dict(control.options).values())[end]
            assert control.index == last
            assert shown(box) == explorer.state
            assert len(seen) == before + 1
            assert "<figure" in seen[-1]
            assert seen[-1] == explorer.picture(**shown(box))


def test_it_begins_with_what_was_asked_and_otherwise_with_the_first():
    explorer = following()
    assert explorer.state == {"field": "hidden", "value": 512, "again": 1, "twice": 1}
    box, seen = watched(explorer)
    assert (shown(box), seen) == (explorer.state, [])
    assert title(box) == "hidden 512 1 1"


@pytest.mark.parametrize("first", [0, 2, 3])
def test_options_that_follow_another_control_are_shown_as_drawn(first):
    """The fault of old: another field, options of its own, and index 0 over 512."""
    explorer = following()
    box, seen = watched(explorer)
    field, value = box.controls["field"], box.controls["value"]
    value.value = SIZES["hidden"][first]
    for name in ("batch", "family", "hidden"):
        before = len(seen)
        from_browser(field, list(SIZES).index(name))
        assert [one for _, one in value.options] == SIZES[name]
        assert (field.value, value.value) == (name, SIZES[name][0])
        assert title(box) == f"{name} {SIZES[name][0]} 1 1"
        assert len(seen) == before + 1


def test_a_value_that_the_new_options_have_too_stays():
    box, _ = watched(
        explore(drawn, wide=[1, 2], size=lambda s: [4, 8] if s["wide"] == 1 else [2, 8])
    )
    box.controls["size"].value = 8
    box.controls["wide"].value = 2
    assert title(box) == "2 8"
    assert box.controls["size"].value == 8


@pytest.mark.parametrize("make", [refusing, raising])
def test_why_there_is_no_figure_is_said_and_the_sliders_live_on(make):
    box, seen = watched(explore(make, hidden=(1, 3)))
    assert box.picture.value == "<p><b>1 is &lt; 2</b></p>"
    box.controls["hidden"].value = 3
    assert title(box) == "3"
    box.controls["hidden"].value = 1
    assert box.picture.value == "<p><b>1 is &lt; 2</b></p>"
    assert len(seen) == 2


def test_nothing_to_choose_is_said_at_once():
    with pytest.raises(ValueError, match="nothing to choose for 'b' where"):
        explore(drawn, a=[1], b=lambda state: [])


def test_options_are_pairs_lists_dicts_or_follow():
    assert choices((1, 3), {}) == {"1": 1, "2": 2, "3": 3}
    assert choices([1000, 2], {}) == {"1,000": 1000, "2": 2}
    assert choices(("a", "b"), {}) == {"a": "a", "b": "b"}
    assert choices({"a few": 3}, {}) == {"a few": 3}
    assert choices(lambda state: (1, state["most"]), {"most": 2}) == {"1": 1, "2": 2}


def test_the_widget_and_a_picture_that_needs_none_are_two_outputs(monkeypatch):
    outputs = []
    monkeypatch.setattr(
        "IPython.display.display", lambda data, raw: outputs.append(data)
    )
    explorer = following()
    explorer._ipython_display_()
    live, still = outputs
    assert set(live) == {WIDGET, "text/plain"}
    assert set(still) == {"text/html", "text/plain"}
    assert 'alt="hidden 512 1 1' in still["text/html"]
    kind = re.search('class="(fastlab-still-[^"]+)"', still["text/html"])[1]
    *_, hide = explorer._box.children
    assert hide.value == f"<style>.{kind} {{display: none}}</style>"
    assert live[WIDGET]["model_id"] == explorer._box.model_id


@pytest.mark.slow
def test_all_of_this_holds_under_the_widgets_of_colab():
    if not (OLD / "ipywidgets").exists():
        pytest.skip(f"no ipywidgets 7.7.1 in {OLD}: `make test` puts it there")
    told = "import ipywidgets, pytest, sys; print(ipywidgets.__version__); "
    told += "sys.exit(pytest.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", told, __file__, "-k", "not colab"],
        env=os.environ | {"PYTHONPATH": f"{OLD}{os.pathsep}{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("7.7.")
    assert done.returncode == 0, done.stdout
