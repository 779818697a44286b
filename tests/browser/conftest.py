"""One JupyterLab and one Debian chromium for all browser tests, or why there is none.

Nothing is ever downloaded: playwright drives the chromium that the system has.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.notebooks.conftest import HERE, PATIENCE_S

ROOT = Path(__file__).parents[2]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-dev-shm-usage", "--disable-default-apps", "--no-first-run"]
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}

# Run All before the kernel has answered runs nothing and says nothing, and a Lab that
# does not know kernels and sessions yet asks which to take: so 1 of 18 runs failed.
OPEN = """async path => {
    const lab = window.jupyterapp
    await lab.restored
    await lab.serviceManager.ready
    await lab.serviceManager.kernelspecs.refreshSpecs()
    await lab.serviceManager.sessions.refreshRunning()
    const panel = await lab.commands.execute('docmanager:open', {path})
    await panel.context.ready
    await panel.sessionContext.ready
    await panel.sessionContext.session.kernel.info
}"""


def wait_until(check: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """What `check` returns once that is true; an OSError counts as not yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := check():
                return found
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s")


class Lab:
    """A running JupyterLab: its address, its folder, and its REST interface."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.token = url, folder, secrets.token_hex()

    def api(self, path: str, method: str = "GET") -> Any:
        """The answer to one request, as JSON; None where there is none."""
        request = urllib.request.Request(f"{self.url}/api/{path}", method=method)
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def stop_kernels(self) -> None:
        """End all sessions with their kernels."""
        for session in self.api("sessions"):
            self.api(f"sessions/{session['id']}", method="DELETE")


def start(lab: Lab, port: int, home: Path) -> subprocess.Popen[bytes]:
    """JupyterLab without news and updates, which hide what is under them."""
    options = [f"--port={port}", f"--ServerApp.root_dir={lab.folder}", "--no-browser"]
    options += ["--allow-root", "--LabApp.expose_app_in_browser=True"]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    kept = home / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    kept.mkdir(parents=True)
    (kept / "notification.jupyterlab-settings").write_text(json.dumps(NO_NEWS))
    own = {"JUPYTER_CONFIG_DIR": str(home), "JUPYTER_RUNTIME_DIR": str(home / "run")}
    own |= {"JUPYTER_TOKEN": lab.token}
    # The guard of tests/notebooks against a network; one thread, as in all tests.
    own |= {"PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env={**os.environ, **own},
        stdout=(home / "lab.log").open("wb"),
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab over an empty folder."""
    home, folder = (tmp_path_factory.mktemp(n) for n in ("lab-home", "lab"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Lab(f"http://127.0.0.1:{port}", folder)
    run = start(made, port, home)
    try:
        wait_until(lambda: made.api("kernelspecs")["kernelspecs"], "JupyterLab starts")
        yield made
    finally:
        run.terminate()
        run.wait(PATIENCE_S)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's chromium under playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is missing")
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome on this machine")
    with api.sync_playwright() as play:
        made = play.chromium.launch(
            executable_path=BROWSER, args=QUIET, timeout=PATIENCE_S * 1e3
        )
        yield made
        made.close()


@pytest.fixture
def blank(browser: Any, lab: Lab) -> Iterator[Any]:
    """An empty page; the kernels that it started end with it."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(PATIENCE_S * 1e3)
    yield context.new_page()
    lab.stop_kernels()
    context.close()


def open_in_lab(page: Any, lab: Lab, name: str) -> None:
    """The notebook, in a workspace of its own, with its kernel at rest."""
    page.goto(f"{lab.url}/lab/workspaces/{name[:-6]}?token={lab.token}")
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate(OPEN, name)
