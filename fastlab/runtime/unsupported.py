"""What a device cannot run, said by name before work starts."""

from __future__ import annotations

import torch

from fastlab import machine
from fastlab.spec.point import Point
from fastlab.spec.recipe import STATIC

CUDA_ONLY = ("sdpa-efficient", "sdpa-cudnn", "flex")


def unsupported_reason(point: Point, kind: str) -> str:
    """Why a device of this kind cannot run the point's runtime, "" where it can.

    Of precisions `machine.unsupported_reason` knows.
    """
    recipe, work, cuda = point.recipe, point.workload, kind == "cuda"
    runtime, attention, cache = recipe.runtime, recipe.attention, recipe.cache
    if runtime == "graph" and not cuda:
        return "runtime graph needs an NVIDIA GPU: CUDA replays the graph"
    if attention in CUDA_ONLY and not cuda:
        return f"attention {attention} has kernels for NVIDIA GPUs only"
    if attention == "flex" and runtime in ("eager", "transformers"):
        return f"attention flex is a compiled kernel; runtime {runtime} has none"
    if attention == "flex" and (cache not in STATIC or work.prefix_len):
        return "attention flex needs a static cache, and a prompt without a prefix"
    if runtime == "compile" and cache == "none" and work.phase == "generate":
        return "runtime compile without a cache would compile anew for each length"
    reason = _cuda_unsupported(point) if cuda else ""
    if reason or runtime == "eager":
        return reason
    missing = machine.compiler_refusal(kind)
    return f"runtime {runtime}: {missing}" if missing else ""


def _cuda_unsupported(point: Point) -> str:
    recipe, work = point.recipe, point.workload
    masked = work.phase != "prefill" or work.prefix_len > 0
    fp32 = recipe.format.dense in ("fp32", "tf32") and not recipe.format.autocast
    if recipe.cache == "static-fp8" and torch.cuda.get_device_capability() < (8, 9):
        return "cache static-fp8 needs compute capability 8.9 or higher"
    if recipe.attention == "sdpa-flash" and recipe.cache in STATIC and masked:
        return "attention sdpa-flash takes no mask, which a static cache needs"
    if recipe.attention in ("sdpa-flash", "sdpa-cudnn") and fp32:
        return f"attention {recipe.attention} computes in 16 bit only"
    return ""
