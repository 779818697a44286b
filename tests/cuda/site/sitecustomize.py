"""On PYTHONPATH: every Python process that imports fastlab finds the GPU of a test.

$PRETEND_GPU holds the fields of `device.Gpu` as JSON. Calibrations are made tiny. What
machines with a GPU may lack cannot be imported.
"""

import ctypes
import importlib.abc
import importlib.machinery
import json
import os
import sys

LACKING = {"papermill", "ipywidgets", "jupyterlab", "IPython", "nbformat", "nbclient"}
LACKING |= {"notebook", "playwright", "importlinter", "mypy", "nbstripout"}


class Hook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Installs the stand-in as soon as fastlab is imported."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LACKING:
            raise ModuleNotFoundError(f"{name} is not on this machine", name=name)
        if name != "fastlab":
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        self.real, found.loader = found.loader, self
        return found

    def create_module(self, spec):
        return self.real.create_module(spec)

    def exec_module(self, module):
        self.real.exec_module(module)
        install()


def install():
    """For as long as the process lives."""
    from fastlab.clock import calibrate, end_to_end, fitting
    from tests.cuda.standin import standin

    for precision in ("tf32", "fp16"):
        calibrate.PEAKS.pop(precision)
    calibrate.PRODUCTS["cuda"] = ((256, 256, 256),)
    for counts in (fitting.COUNTS, fitting.STORED_COUNTS, fitting.PACKED_COUNTS):
        counts.update(dict.fromkeys(counts, 6))
    for counts in (fitting.COMPILED_COUNTS, fitting.COMPILED_STORED):
        counts.update(dict.fromkeys(counts, 6))
    point_of = end_to_end.point_of
    small = {"hidden": 128, "layers": 2, "vocab": 256}
    end_to_end.point_of = lambda **asked: point_of(
        **asked | {n: min(most, asked.get(n, most)) for n, most in small.items()}
    )
    held = standin(**json.loads(os.environ["PRETEND_GPU"]))
    held.__enter__()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))  # nothing ends it


if "PRETEND_GPU" in os.environ:
    sys.meta_path.insert(0, Hook())
