"""Checks of the device at hand: there, free, right in each precision; of its clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from fastlab import machine
from fastlab.health.report import Finding, Subject
from fastlab.record import Measurement
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


EMPTY_LIMIT_S = 100e-6
SIZES = {"cpu": (512, 1024), "cuda": (2048, 4096)}  # twice as wide: 8 x the FLOPs
GROWTH = (2.0, 32.0)
RATES = {"cpu": (1e8, 2e13), "cuda": (1e11, 2e15)}  # FLOP/s of an fp32 product
AGREEMENT, TRIES = 0.03, 3
QUIET = "close other programs (`top` lists them) and run doctor again"
BUDGETS = {"cpu": 0.3, "cuda": 0.5}


def timer(subject: Subject) -> Iterator[Finding]:
    """Whether times never run backwards, are about 0 for nothing, grow with work."""
    if not subject.kind:
        yield Finding("timer", None, NO_DEVICE)
        return
    for check in (monotonic, empty_call, known_product, do_bench_agrees):
        yield check(subject.kind)


def measured(run: Callable[[], Any], kind: str) -> Measurement:
    """A short timing of `run` by fastlab's own clock."""
    from fastlab.clock.clocks import clock_for
    from fastlab.clock.timing import Settings, time_call

    times = {"budget_s": BUDGETS[kind], "warmup_s": BUDGETS[kind] / 2}
    settings = Settings.for_device(kind, n_min=5, **times)
    return time_call(run, settings, clock_for(kind))


def monotonic(kind: str) -> Finding:
    """Whether 10,000 readings of the host's clock never run backwards."""
    from fastlab.clock.clocks import clock_for

    clock = clock_for(kind)
    read = [clock.now_ns() for _ in range(10_000)]
    back = sum(b < a for a, b in pairwise(read))
    said = f"ran backwards {back} times" if back else "never runs backwards"
    fix = "a virtual machine's clock: choose a steady clock source, or other hardware"
    return Finding("clock", not back, said, fix)


def empty_call(kind: str) -> Finding:
    """Whether a call that does nothing takes next to no time."""
    spent = measured(lambda: None, kind).seconds
    said = f"{spent * 1e6:.2f} us; the limit is {EMPTY_LIMIT_S * 1e6:.0f} us"
    return Finding("empty call", spent < EMPTY_LIMIT_S, said, QUIET)


def product(size: int, kind: str) -> Callable[[], Any]:
    """An fp32 product of two size x size matrices, ready to run."""
    import torch

    a, b = (torch.randn(size, size, device=kind) for _ in "ab")
    return partial(torch.mm, a, b)


def known_product(kind: str) -> Finding:
    """Whether 8 x the FLOPs take 2 to 32 x the time, at a rate hardware can have.

    The first of 3 tries that is so counts: another program can spoil one of them, a
    timer that is wrong spoils all.
    """
    (small, large), (low, high) = SIZES[kind], RATES[kind]
    for _ in range(TRIES):
        # The shortest sample, which other programs disturb least.
        fastest = (min(measured(product(n, kind), kind).device_ns) for n in SIZES[kind])
        first, second = (max(ns, 1e-3) / 1e9 for ns in fastest)
        growth, rate = second / first, 2 * large**3 / second
        plausible = GROWTH[0] <= growth <= GROWTH[1] and low <= rate <= high
        if plausible:
            break
    said = f"{large}^3 takes {growth:.1f} x the time of {small}^3 (8 x the FLOPs)"
    said += f", {rate / 1e12:.3g} TFLOP/s"
    return Finding("known product", plausible, said, QUIET)


def do_bench_agrees(kind: str) -> Finding:
    """Whether our median is within 3 % of triton's do_bench, in the best of 3 tries."""
    if kind != "cuda":
        return Finding("do_bench", None, "only compared on a GPU")
    if find_spec("triton") is None:
        return Finding("do_bench", None, "triton is not installed")
    run = product(SIZES[kind][1], kind)
    # Clocks drift over seconds, so that ours and theirs alternate.
    ratios = (measured(run, kind).seconds / _do_bench_s(run) for _ in range(TRIES))
    best = next((r for r in ratios if abs(r - 1) <= AGREEMENT), None)
    said = f"ours and triton's do_bench differ by more than {AGREEMENT:.0%}"
    if best is not None:
        said = f"ours / triton's do_bench = {best:.4f}"
    return Finding("do_bench", best is not None, said, QUIET)


def _do_bench_s(run: Callable[[], Any]) -> float:
    from triton.testing import do_bench

    return float(do_bench(run, warmup=100, rep=500, return_mode="median")) / 1e3


NONE_YET = "none is kept: the first estimate measures this machine, in some seconds"
HALF = "peak, bandwidth and launches only: `fastlab calibrate` fits the rest"
CROWDED = "close other programs (`top` lists them), then run `fastlab calibrate`"
UNLIKE = "other programs are running, or it needs a new `fastlab calibrate`"


def profile(subject: Subject) -> Iterator[Finding]:
    """How much was calibrated, when, and whether the machine is still as fast.

    Broken where the machine was busy when it was made. That it is slower now is no
    failure: it may be the other programs of this moment.
    """
    from fastlab.clock.calibrate import alike, kept, now_to_then

    if not subject.kind:
        return
    device = kept(subject.kind)
    if device is None:
        yield Finding("profile", None, NONE_YET)
        return
    said = f"{device.source}, {HALF}"
    if device.fits is not None:
        points, seconds = device.fits.count, device.fits.seconds
        said = f"{device.source}, {points} points in {seconds:.0f} s"
    if device.busy:
        said += f"; made on a busy machine: {device.busy}"
        yield Finding("profile", False, said, CROWDED)
        return
    launches, rate = now_to_then(device)
    said += f"; launches now x{launches:.2f}, fp32 products x{rate:.2f}"
    good = alike(launches, rate)
    yield Finding("profile", good or None, said if good else f"{said}: {UNLIKE}")
