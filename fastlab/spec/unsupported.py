"""unsupported(): why a device cannot run a point, decided here alone. No torch."""

from __future__ import annotations

from fastlab.spec.engines import GPUS, STATIC, Hardware
from fastlab.spec.kept import program_of
from fastlab.spec.point import Point

CUDA_ONLY = ("sdpa-efficient", "sdpa-cudnn", "flex")
HALF_ONLY = ("sdpa-flash", "sdpa-cudnn")  # on a GPU


def unsupported(point: Point, device: Hardware) -> str | None:
    """Why the device cannot run the point, named before any work; None where it can.

    device: a Device of a datasheet or calibration, or `machine.Here`, which also looks
    for a compiler.
    """
    recipe = point.recipe
    reason = device.lacks(recipe.precision) or recipe.engine.unsupported(device)
    reason = reason or _flex_or_kernel(point, device.kind in GPUS)
    reason = reason or (_traced(point) if point.shape.config else "")
    if device.kind in GPUS:
        reason = reason or _on_gpu(point, device)
    return reason or None


def _traced(point: Point) -> str:
    """What a model's own code has no way to do, as far as tracing saw."""
    program, recipe = program_of(point.shape), point.recipe
    if recipe.cache in STATIC and program["static"]:
        return f"cache={recipe.cache!r}: {program['static']}"
    if not program["sdpa"] and recipe.attention not in ("sdpa", "eager"):
        why = f"{program['class']} attends in eager kernels of its own"
        return f"attention={recipe.attention!r}: {why}"
    if recipe.format.weights or recipe.storage != "dense":
        made = recipe.precision if recipe.format.weights else recipe.storage
        if why := program["bound"][recipe.scope]:
            return f"weights cannot be {made}: {why}"
        if program["experts"] and recipe.engine.compiled:
            why = "cannot choose experts that are"
            return f"runtime={recipe.runtime!r} {why} {made}"
    width = str(recipe.format.value)
    return str(program["faults"].get(width, ""))


def _flex_or_kernel(point: Point, gpu: bool) -> str:
    recipe, work = point.recipe, point.workload
    runtime, attention, cache = recipe.runtime, recipe.attention, recipe.cache
    if attention in CUDA_ONLY and not gpu:
        return f"attention {attention} has kernels for NVIDIA GPUs only"
    if attention == "flex" and not recipe.engine.ours:
        return f"attention flex is a compiled kernel; runtime {runtime} has none"
    if attention == "flex" and (cache not in STATIC or work.prefix_len):
        return "attention flex needs a static cache, and a prompt without a prefix"
    if recipe.engine.compiled and cache == "none" and work.phase == "generate":
        return f"runtime {runtime} without a cache would compile anew for each length"
    return ""


def _on_gpu(point: Point, device: Hardware) -> str:
    recipe, work = point.recipe, point.workload
    masked = work.phase != "prefill" or work.prefix_len > 0
    fp32 = recipe.format.dense in ("fp32", "tf32") and not recipe.format.autocast
    if recipe.cache == "static-fp8" and (missing := device.lacks("fp8")):
        return f"cache static-fp8: {missing}"
    if recipe.attention == "sdpa-flash" and recipe.cache in STATIC and masked:
        return "attention sdpa-flash takes no mask, which a static cache needs"
    if recipe.attention in HALF_ONLY and fp32:
        return f"attention {recipe.attention} computes in 16 bit only"
    return ""
