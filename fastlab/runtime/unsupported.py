"""What a device cannot run, said by name before work starts."""

from __future__ import annotations

import torch

from fastlab import machine
from fastlab.spec.point import Point
from fastlab.spec.recipe import STATIC

CUDA_ONLY = ("sdpa-efficient", "sdpa-cudnn", "flex")
FP8_CAPABILITY = (8, 9)


def unsupported_reason(point: Point, kind: str) -> str:
    """Why a device of this kind cannot run the point's runtime, "" where it can.

    Of precisions `machine.unsupported_reason` knows.
    """
    recipe, phase = point.recipe, point.workload.phase
    if recipe.runtime == "graph" and kind != "cuda":
        return "runtime graph needs an NVIDIA GPU: CUDA replays the graph"
    if recipe.attention in CUDA_ONLY and kind != "cuda":
        return f"attention {recipe.attention} has kernels for NVIDIA GPUs only"
    if recipe.attention == "flex":
        return _flex_unsupported(point)
    if recipe.runtime == "compile" and recipe.cache == "none" and phase == "generate":
        return "runtime compile without a cache would compile anew for each length"
    reason = _cuda_unsupported(point) if kind == "cuda" else ""
    if reason or recipe.runtime == "eager":
        return reason
    missing = machine.compiler_refusal(kind)
    return f"runtime {recipe.runtime}: {missing}" if missing else ""


def _flex_unsupported(point: Point) -> str:
    recipe = point.recipe
    if recipe.runtime in ("eager", "transformers"):
        return f"attention flex is a compiled kernel; runtime {recipe.runtime} has none"
    if recipe.cache not in STATIC or point.workload.prefix_len:
        return "attention flex needs a static cache, and a prompt without a prefix"
    return ""


def _cuda_unsupported(point: Point) -> str:
    recipe, work = point.recipe, point.workload
    static = recipe.cache in STATIC
    if recipe.cache == "static-fp8" and _capability() < FP8_CAPABILITY:
        return "cache static-fp8 needs compute capability 8.9 or higher"
    masked = static and (work.phase != "prefill" or work.prefix_len > 0)
    if recipe.attention == "sdpa-flash" and masked:
        return "attention sdpa-flash takes no mask, which a static cache needs"
    fp32 = recipe.format.dense in ("fp32", "tf32") and not recipe.format.autocast
    if recipe.attention in ("sdpa-flash", "sdpa-cudnn") and fp32:
        return f"attention {recipe.attention} computes in 16 bit only"
    return ""


def _capability() -> tuple[int, int]:
    return torch.cuda.get_device_capability()
