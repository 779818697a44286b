"""Checks of the device at hand: there, free, and right in each precision."""

from __future__ import annotations

from collections.abc import Iterator

from fastlab import machine
from fastlab.health.report import Finding, Subject
from fastlab.spec.engines import ENGINES
from fastlab.spec.formats import DENSE
from fastlab.words import si

NO_DEVICE = "there is no device to check it on"
RIGHT = "native, and a product has the right numbers"
WRONG = "a matrix product of small whole numbers gives wrong ones"
TORCH_FIX = "install the torch build for this machine (pytorch.org), or --device cpu"


def device(subject: Subject) -> Iterator[Finding]:
    """Which device is measured on, and whether torch sees the GPU that is there."""
    if not subject.kind:
        yield Finding("device", False, subject.trouble, TORCH_FIX)
        return
    room = si(machine.memory_bytes(subject.kind), "B")
    yield Finding("device", True, f"{machine.device_name(subject.kind)}, {room}")
    if subject.kind == "cpu" and subject.wanted == "auto" and _driver_sees_a_gpu():
        words = "the NVIDIA driver lists a GPU, but this torch cannot use it"
        yield Finding("gpu", False, words, TORCH_FIX)


def _driver_sees_a_gpu() -> bool:
    return bool(machine.output_of("nvidia-smi", "--list-gpus"))


def precisions(subject: Subject) -> Iterator[Finding]:
    """Which precisions the device really has, each by a product with known numbers."""
    kind = subject.kind
    for precision in DENSE:
        refused = machine.unsupported_reason(kind, precision) if kind else NO_DEVICE
        if refused:
            yield Finding(precision, None, refused)
            continue
        try:
            right = product_is_right(kind, precision)
            words = RIGHT if right else WRONG
        except RuntimeError as error:
            right = False
            words = f"a matrix product stops: {str(error).splitlines()[0]}"
        yield Finding(precision, right, words, TORCH_FIX)


def compiler(subject: Subject) -> Iterator[Finding]:
    """Whether runtimes other than eager can run: they are compiled."""
    reason = machine.compiler_refusal(subject.kind)
    *names, last = [name for name, engine in ENGINES.items() if engine.compiled]
    words = reason or f"there; runtimes {', '.join(names)} and {last} can run"
    yield Finding("compiler", None if reason else True, words)


def product_is_right(kind: str, precision: str) -> bool:
    """Whether a product is exact where it must be, and fp32 keeps 12 bits and more.

    Whole numbers from -2 to 2 and sums up to 256 are exact in every format, bf16 too.
    tf32 rounds 1 + 2^-12 to 1: fp32 must not, or it is tf32 in disguise.
    """
    import torch

    from fastlab.models import DTYPES, numerics

    whole = torch.arange(64 * 64).reshape(64, 64) % 5 - 2
    fine = (1 + 2.0**-12) * torch.eye(64)
    x = whole.to(kind, DTYPES[precision])
    with numerics(precision):
        exact = torch.equal((x @ x).cpu().to(whole.dtype), whole @ whole)
        kept = torch.equal((fine.to(kind) @ torch.eye(64).to(kind)).cpu(), fine)
    return exact and (kept or precision != "fp32")


def sharing(subject: Subject) -> Iterator[Finding]:
    """Whether the GPU is ours alone and runs at its full clocks, as NVML tells it."""
    if subject.kind != "cuda":
        yield Finding("shared GPU", None, "only asked on a GPU")
        return
    from fastlab.clock.clocks import clock_for

    state = clock_for("cuda").state()
    if not state.known:
        words = "unknown: NVML does not answer (nvidia-ml-py)"
        yield Finding("shared GPU", None, words)
        return
    many = f"{len(state.pids)} processes compute"
    said = f"{many if state.shared else 'no other process computes'} on it"
    fix = "`nvidia-smi` lists them: stop the others, or pick another GPU"
    yield Finding("shared GPU", not state.shared, said, fix)
    held = "slowed down by heat or power" if state.throttled else "not slowed down"
    cool = "let it cool and check its power supply: `nvidia-smi -q -d PERFORMANCE`"
    yield Finding("GPU clocks", not state.throttled, held, cool)
