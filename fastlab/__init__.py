"""Predict what a transformer costs, measure it, and show both side by side.

Everything public is here by name and loaded when it is first used, so that importing
the package takes no time and needs neither torch nor pandas.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Threads of OpenMP spin while they wait for each other: beside a busy program a product
# of 2 ms then takes up to 75. libgomp reads this once, when torch loads it; with so few
# turns the wait is short, and a quiet machine is as fast as without.
if "torch" not in sys.modules:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
# So do those of the OpenBLAS in numpy's wheels: beside busy programs a fit takes six
# times the CPU time. Not in conda, whose torch may multiply with the same library.
if "numpy" not in sys.modules and not os.path.exists(sys.prefix + "/conda-meta"):
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# No layer of transformers is replaced by code from a hub (read as it is imported).
os.environ.setdefault("USE_HUB_KERNELS", "NO")

_HOMES = {
    "fastlab.spec": ("ModelShape", "Workload", "Recipe", "Point", "grid"),
    "fastlab.spec.pruning": ("Pruning",),
    "fastlab.spec.scenarios": ("scenario", "scenarios"),
    "fastlab.cost.operations": ("operations",),
    "fastlab.cost.memory": ("parameters", "kv_cache_bytes"),
    "fastlab.latency.devices": ("device", "devices"),
    "fastlab.latency.estimates": ("estimate",),
    "fastlab.scores.scoreboard": ("score",),
    "fastlab.serving.outcome": ("simulate",),
    "fastlab.shrink.recipes": ("build", "load"),
    "fastlab.shrink.saved": ("save",),
    "fastlab.shrink.trained": ("Trained",),
    "fastlab.shrink.quantize": ("quantize",),
    "fastlab.shrink.pruning.slicing": ("prune",),
    "fastlab.learning.loop": ("Training",),
    "fastlab.learning.training": ("train",),
    "fastlab.learning.distilling": ("DistillConfig", "distill"),
    "fastlab.runtime.engines": ("prepare",),
    "fastlab.runtime.sampling": ("Sampling",),
    "fastlab.runtime.decode": ("Decoder",),
    "fastlab.clock.clocks": ("clock_for",),
    "fastlab.clock.timing": ("Settings", "time_call"),
    "fastlab.clock.calibrate": ("this_device",),
    "fastlab.clock.measure": ("measure",),
    "fastlab.clock.quality": ("Evaluator",),
    "fastlab.health": ("doctor",),
    "fastlab.sweeps.store": ("Store",),
    "fastlab.sweeps.run": ("sweep",),
    "fastlab.sweeps.reference": ("references",),
    "fastlab.searches.run": ("search",),
    "fastlab.rows": ("table", "estimated", "over"),
    "fastlab.literature": ("published",),
    "fastlab.reading": ("short", "styled"),
    "fastlab.figures.explorer": ("explore",),
    "fastlab.notebook.run": ("start",),
    "fastlab.notebook.button": ("button",),
    "fastlab.notebook.generation": ("tiny_lm_folder",),
    "fastlab.notebook.progress": ("status", "steps"),
}
_MODULES = {
    "figures": "fastlab.figures",
    "check": "fastlab.notebook.exercises",
    # Rooms whose other names are reached as `fl.rows.only`.
    **{room: f"fastlab.{room}" for room in ("rows", "reading", "checkpoints")},
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'fastlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
