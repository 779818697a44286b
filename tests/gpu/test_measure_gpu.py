"""measure() on a real GPU: rows of every status, memory as estimated, real tf32."""

import pytest

from fastlab import machine
from fastlab.calls import prepare
from fastlab.clock.calibrate import calibrate
from fastlab.clock.measure import Bench
from fastlab.clock.timing import Settings
from fastlab.latency.devices import Device, device
from fastlab.models import build, numerics
from fastlab.spec import grid, point_of
from fastlab.spec.formats import QUANTIZED


@pytest.fixture(scope="module")
def here() -> Device:
    return calibrate("cuda")


@pytest.fixture(scope="module")
def bench(here: Device) -> Bench:
    settings = Settings.for_device("cuda", budget_s=0.5, warmup_s=0.1, n_min=10)
    return Bench.for_device("cuda", settings, here)


def test_the_calibrated_device_is_not_faster_than_its_datasheet(here):
    try:
        sheet = device(here.name)
    except ValueError:
        pytest.skip(f"{here.name} is not in data/devices.csv")
    for precision, rate in here.peak_flops.items():
        assert 0.2 < rate / sheet.peak(precision) < 1.05, precision
    able = [p for p in QUANTIZED if not machine.unsupported_reason("cuda", p)]
    assert [p for p in QUANTIZED if here.can(p)] == able
    assert 0.5 < here.bandwidth / sheet.bandwidth < 1.05
    assert 1e-6 < here.launch_s < 1e-4


POINTS = grid(
    model=["tiny-gpt2", "tiny-llama", "tiny-qwen3"],
    phase=["prefill", "decode"],
    prompt_len=64,
    precision=["fp32", "bf16", "fp16"],
)


@pytest.mark.parametrize("point", POINTS, ids=lambda p: p.label)
def test_every_family_and_precision_is_measured(bench, point):
    record = bench.measure(point)
    reason = machine.unsupported_reason("cuda", point.recipe.precision)
    assert record.status == ("unsupported" if reason else "ok"), record.reason
    if not reason:
        assert record.measured.cache == "cold"
        assert len(record.measured.enqueue_ns) >= 5
        assert record.measured.seconds < 1


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_peak_memory_as_estimated(bench, phase):
    point = point_of(
        **{"family": "llama", "layers": 8, "hidden": 2048, "vocab": 32000},
        **{"prompt_len": 1024, "batch": 8, "precision": "bf16", "phase": phase},
    )
    record = bench.measure(point)
    assert record.status == "ok", record.reason
    estimated = record.estimate.peak_bytes
    assert record.measured.peak_bytes == pytest.approx(estimated, rel=0.2)


def test_out_of_memory_is_a_row_and_the_next_point_is_as_before(bench):
    small = point_of(model="tiny-llama", prompt_len=64)
    assert bench.measure(small).status == "ok"
    huge = point_of(family="llama", layers=2, hidden=8192, prompt_len=65536, batch=4096)
    record = bench.measure(huge)
    assert record.status == "oom"
    assert record.measured is None
    assert bench.measure(small).status == "ok"


def test_an_8b_model_is_made_on_the_gpu_without_a_copy_on_the_host():
    if machine.free_bytes("cuda") < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    point = point_of(model="llama-3.1-8b", precision="bf16")
    model = build(point, "cuda")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert grown * 1024 < 4 * 2**30


def test_tf32_is_really_another_product():
    """Ten bits of mantissa: fp32 and tf32 logits differ, bf16's differ by more."""
    if machine.unsupported_reason("cuda", "tf32"):
        pytest.skip(machine.unsupported_reason("cuda", "tf32"))
    point = point_of(family="llama", layers=2, hidden=512, vocab=1000)
    call = prepare(build(point, "cuda"), point, "cuda")
    with numerics("fp32"):
        full = call.run()
    with numerics("tf32"):
        short = call.run()
    difference = (full - short).abs().max().item()
    assert 0 < difference < 0.1 * full.abs().max().item()


def test_a_decode_step_on_the_gpu_never_grows_its_cache():
    point = point_of(model="tiny-llama", phase="decode", prompt_len=32)
    call = prepare(build(point, "cuda"), point, "cuda")
    with numerics("fp32"):
        for _ in range(5):
            call.reset()
            call.run()
    assert call.cache.get_seq_length() == 33
