"""An explorer in JupyterLab: its picture is there once, living or only saved."""

import re
from pathlib import Path

import nbformat
import papermill
import pytest
from nbconvert import HTMLExporter

from tests.browser.conftest import open_in_lab
from tests.browser.test_explorer import HANDLE, IMAGE, keep_screenshot, run_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
CELL = """
import pandas as pd
import fastlab as fl
from fastlab.figures.grammar import Figure
from fastlab.figures.layers import points
from fastlab.figures.panels import Axis, Panel

SIZES = {"hidden": [64, 128, 512, 768], "batch": [1, 4]}

def make(field, value):
    rows = pd.DataFrame({"x": [0, value], "y": [0, 1]})
    layer = points(rows, "x", "y", "two")
    return Figure([Panel(Axis("x"), Axis("y"), [layer])], f"{field} {value}", rows)

fl.explore(
    make,
    {"value": 512},
    "drawn by hand",
    field=list(SIZES),
    value=lambda state: SIZES[state["field"]],
)
"""
STILL = "[class^=fastlab-still] img"


@pytest.fixture
def saved(lab) -> Path:
    """A notebook with an explorer, run and saved without the state of its widgets."""
    path = lab.folder / "saved.ipynb"
    cells = [nbformat.v4.new_code_cell(CELL)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    quiet = {"progress_bar": False, "kernel_name": "python3"}
    papermill.execute_notebook(path, path, store_widget_state=False, **quiet)
    return path


@pytest.fixture
def page(blank, lab, saved):
    open_in_lab(blank, lab, saved.name)
    return blank


def test_nbconvert_shows_the_picture(saved):
    page, _ = HTMLExporter().from_filename(saved)
    assert re.search('fastlab-still-[^>]*><figure[^>]*><img alt="hidden 512', page)


def test_a_saved_explorer_shows_its_picture_and_a_living_one_only_the_widget(
    page, lab, saved
):
    still = page.locator(STILL)
    still.wait_for(state="visible")
    keep_screenshot(page, "saved")
    assert "hidden 512" in still.get_attribute("alt")
    assert page.locator(IMAGE).count() == 0
    run_all(page)
    page.locator(IMAGE).wait_for(state="visible")
    still.wait_for(state="hidden")
    keep_screenshot(page, "living")
    expect(page, "hidden 512", "512")
    choose, slider = page.locator(".widget-dropdown select"), page.locator(HANDLE)
    choose.select_option("batch")
    expect(page, "batch 1", "1")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(page, "batch 4", "4")
    choose.select_option("hidden")
    expect(page, "hidden 64", "64")
    slider.focus()
    page.keyboard.press("End")
    expect(page, "hidden 768", "768")
    choose.select_option("batch")
    expect(page, "batch 1", "1")
    keep_screenshot(page, "after")
    # Run here it is trusted, and then JupyterLab tries the widget although none lives.
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    lab.stop_kernels()
    open_in_lab(page, lab, saved.name)
    page.locator(STILL).wait_for(state="visible")
    page.get_by_text("model not found").wait_for(state="visible")
    keep_screenshot(page, "again")
    assert "hidden 512" in page.locator(STILL).get_attribute("alt")


def expect(page, title, shown):
    """The picture has the title and the slider its value, now and a second later."""
    page.wait_for_function(
        "([s, title]) => document.querySelector(s).alt.startsWith(title)",
        arg=[IMAGE, title],
    )
    page.wait_for_timeout(1000)
    assert page.locator(IMAGE).get_attribute("alt").startswith(title)
    assert page.locator(".widget-hslider .widget-readout").inner_text() == shown
