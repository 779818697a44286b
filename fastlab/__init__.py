"""Predict what a transformer costs, measure it, and show both side by side.

Everything public is here by name and loaded when it is first used, so that importing
the package takes no time and needs neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "fastlab.spec": ("ModelShape", "Workload", "Recipe", "Point", "PRESETS", "grid"),
    "fastlab.record": ("Estimate", "Measurement", "Quality", "Record"),
    "fastlab.cost.operations": ("operations",),
    "fastlab.cost.memory": (
        "parameters",
        "kv_cache_bytes",
        "peak_bytes",
        "largest_batch",
    ),
    "fastlab.latency.devices": ("Device", "device", "devices"),
    "fastlab.latency.estimates": ("estimate",),
    "fastlab.scores.scoreboard": ("score",),
    "fastlab.cost.article": ("article_as_printed", "article_corrected"),
    "fastlab.runtime.engines": ("prepare",),
    "fastlab.checkpoints": ("generate_text", "without_bars"),
    "fastlab.shrink.recipes": ("build", "load"),
    "fastlab.shrink.trained": ("Trained", "checkpoint_folder"),
    "fastlab.clock.evaluator": ("Evaluator", "built", "same_text"),
    "fastlab.shrink.quantize": ("quantize",),
    "fastlab.spec.pruning": ("Pruning", "pruned_shape"),
    "fastlab.spec.sparsity": ("Sparsity",),
    "fastlab.spec.sharing": ("Sharing",),
    "fastlab.shrink.pruning.slicing": ("prune",),
    "fastlab.shrink.sparsify": ("sparsify",),
    "fastlab.shrink.share": ("share",),
    "fastlab.shrink.saved": ("save_quantized", "load_quantized"),
    "fastlab.learning.text": ("stdlib_corpus", "file_corpus"),
    "fastlab.learning.likelihood": ("text_loss",),
    "fastlab.learning.loop": ("Training",),
    "fastlab.learning.training": ("train",),
    "fastlab.learning.distilling": ("DistillConfig", "distill"),
    "fastlab.clock.quality": ("quality_of",),
    "fastlab.runtime.decode": ("Decoder",),
    "fastlab.runtime.sampling": ("Sampling",),
    "fastlab.runtime.prefix": ("Prefixes",),
    "fastlab.runtime.streaming": ("stream",),
    "fastlab.clock.clocks": ("clock_for",),
    "fastlab.clock.timing": ("Settings", "time_call"),
    "fastlab.clock.calibrate": ("calibrate", "this_device"),
    "fastlab.clock.measure": ("Bench", "measure"),
    "fastlab.health": ("doctor",),
    "fastlab.sweeps.store": ("Store",),
    "fastlab.sweeps.run": ("sweep",),
    "fastlab.sweeps.files": ("read_sweep",),
    "fastlab.rows": (
        *("table", "estimated", "over", "settled"),
        *("only", "with_quality", "merge_runs"),
    ),
    "fastlab.reading": ("short", "styled", "sample_summary"),
    "fastlab.figures.explorer": ("explore",),
    "fastlab.sweeps.reference": ("references",),
    "fastlab.notebook.run": ("start", "Run"),
    "fastlab.notebook.generation": ("train_tiny_lm", "tiny_lm_folder", "stream_text"),
    "fastlab.notebook.progress": ("status", "steps"),
    "fastlab.notebook.series": ("series",),
}
_MODULES = {
    "figures": "fastlab.figures",
    "check": "fastlab.notebook.exercises",
    "traps": "fastlab.clock.traps",
    "drift": "fastlab.clock.drift",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fastlab' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
