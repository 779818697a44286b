"""Every notebook's explorer in a real JupyterLab and browser: keys move it, it redraws.

The seconds from key to new image are printed (pytest -s), not judged: 0.5 s is wanted.
"""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median

import nbformat
import papermill
import pytest

from fastlab.notebook.batch import check_parameters
from tests.browser.conftest import open_in_lab
from tests.notebooks.conftest import NOTEBOOKS, PATIENCE_S, TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KEYS = 4
IMAGE = ".widget-html figure img"
HANDLE = ".widget-hslider .noUi-handle"
IDLE = ".jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status=idle]"
ERROR = '.jp-OutputArea [data-mime-type$="error"]'  # after one, no cell runs any more
ALL_RUN = """error => document.querySelector(error) ||
    [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(
        prompt => /\\[\\d+\\]/.test(prompt.textContent))"""
# From the key going down to the frame in which another image stands, all decoded.
CLOCK = """selector => {
    const old = document.querySelector(selector).src
    window.spent = new Promise(done => {
        let began
        addEventListener('keydown', () => { began ??= performance.now() }, true)
        const watch = new MutationObserver(async () => {
            const image = document.querySelector(selector)
            if (!image || image.src === old) return
            watch.disconnect()
            await image.decode()
            requestAnimationFrame(() => done((performance.now() - began) / 1000))
        })
        watch.observe(document.body, {attributes: true, childList: true, subtree: true})
    })
}"""


def has_widget(path):
    cells = nbformat.read(path, as_version=4).cells
    return any("widget" in cell.metadata.get("tags", []) for cell in cells)


WITH_WIDGET = [path for path in NOTEBOOKS if has_widget(path)]


@pytest.fixture(params=WITH_WIDGET, ids=lambda path: path.stem)
def opened(request, lab, blank):
    """The notebook, with tiny parameters, open in Lab with its kernel at rest."""
    stem, name = request.param.stem, request.param.name
    given = check_parameters(request.param, TINY[stem]["parameters"])
    out = str(lab.folder / name)
    papermill.execute_notebook(
        request.param, out, given, prepare_only=True, kernel_name="python3"
    )
    open_in_lab(blank, lab, name)
    blank.wait_for_selector(IDLE)
    return blank


def run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(ALL_RUN, arg=ERROR)
    assert page.locator(ERROR).all_inner_texts() == []


def press(page, key):
    """Seconds from the key to the new image."""
    page.evaluate(CLOCK, IMAGE)
    page.keyboard.press(key)
    return page.evaluate(
        "limit => Promise.race([window.spent, new Promise((_, no) =>"
        " setTimeout(() => no(Error(`no new image in ${limit} s`)), limit * 1e3))])",
        PATIENCE_S,
    )


def keep_screenshot(page, name):
    """For people to look at, where FASTLAB_SCREENSHOTS names a folder."""
    if folder := os.environ.get("FASTLAB_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_arrow_keys_on_the_first_slider_redraw_the_figure(request, opened):
    name = request.node.callspec.id
    try:
        run_all(opened)
    finally:
        keep_screenshot(opened, f"{name}-run")
    handle, image = opened.locator(HANDLE).first, opened.locator(IMAGE).first
    image.scroll_into_view_if_needed()
    keep_screenshot(opened, f"{name}-before")
    alts, spent = [image.get_attribute("alt")], []
    handle.focus()
    keys = ["ArrowRight", "ArrowLeft"]
    if handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax"):
        keys.reverse()  # it begins at its right end
    for key in keys * (KEYS // 2):
        spent.append(press(opened, key))
        alts.append(opened.locator(IMAGE).first.get_attribute("alt"))
    keep_screenshot(opened, f"{name}-after")
    each = ", ".join(f"{s:.2f}" for s in spent)
    print(f"{name}: key to new image {median(spent):.2f} s ({each})")
    assert alts[0] != alts[1]
    assert alts[2] == alts[0]
