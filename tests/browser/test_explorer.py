"""The explorer in a real JupyterLab and a real browser: keys move it, it redraws."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
ROOT = Path(__file__).parents[2]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update"]
TINY = """rows = fl.table(
    fl.Record(p, "box", {}, "ok", fl.estimate([p], fl.device("h200"))[0])
    for p in fl.grid(layers=[2, 4], hidden=[256, 512])
)"""
CELLS = [
    "import fastlab as fl",
    TINY,
    'fl.explore.layers_by_hidden(rows, fl.device("h200"), "estimated for a box")',
]


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab that shows nb.ipynb."""
    plain = {"cell_type": "code", "metadata": {}, "outputs": []}
    cells = [{**plain, "execution_count": None, "source": c} for c in CELLS]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    kernel = {"kernelspec": {**kernel, "language": "python"}}
    book = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}
    (tmp_path / "nb.ipynb").write_text(json.dumps(book))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [f"--port={port}", f"--ServerApp.root_dir={tmp_path}"]
    options += ["--no-browser", "--allow-root", "--IdentityProvider.token="]
    options += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class="]
    options[-1] += "jupyterlab.NeverCheckForUpdate"
    run = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JUPYTER_CONFIG_DIR": str(tmp_path),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield f"http://127.0.0.1:{port}"
    run.terminate()
    run.wait(30)


def wait_until(check, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if check():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


def run_all(page):
    """Run all cells; a Lab that still looks for its kernel asks, or does nothing."""
    accept = page.locator(".jp-Dialog .jp-mod-accept")
    if accept.is_visible():
        accept.click()
    elif page.locator(".jp-InputPrompt").first.inner_text().strip() == "[ ]:":
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_timeout(2000)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")
def test_an_arrow_key_redraws_the_figure(lab):
    wait_until(lambda: urllib.request.urlopen(f"{lab}/api").status == 200)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=QUIET)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(f"{lab}/lab/tree/nb.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        image = page.locator(".widget-html figure img")
        wait_until(lambda: run_all(page) or image.is_visible())
        assert "fp32 prefill, 4 layers: estimated" in image.get_attribute("alt")
        page.locator(".widget-hslider .noUi-handle").focus()
        page.keyboard.press("ArrowRight")
        wait_until(lambda: "5 layers" in image.get_attribute("alt"), 10)
        browser.close()
