"""The prior of a GPU: by hand from round numbers, and what data/prior.json holds."""

import json
import math
from dataclasses import replace

import pytest

from fastlab.cost import ops
from fastlab.latency.devices import Device, datasheet_row, device, devices
from fastlab.latency.estimates import estimate
from fastlab.latency.explain import breakdown
from fastlab.latency.prior import BEYOND, levels, prior, rates, stored
from fastlab.latency.samples import Sample, work_of
from fastlab.spec import point_of

SHEET = replace(
    datasheet_row("h100"),
    name="round",
    peak_flops={"fp32": 1e12, "fp16": 1e15, "bf16": 1e15},
    bandwidth=1e12,
    l2_bytes=10**7,
    clock_hz=2e9,
    sms=500,  # 1e12 cycles a second
)
NUMBERS = {"compute": 0.5, "memory": 0.8, "sharpness": 1.0, "cycles": 4000.0}
FITS = {
    "linear 16-bit": NUMBERS
    | {"depth_cycles": 0.5, "half": [0.1, 0.2, 0.3], "n": 9, "gpus": {}}
}
STEP = {"model": "llama-3.1-8b", "precision": "bf16", "phase": "decode"}
GRAPH = {"cache": "static", "runtime": "graph"}


def test_shares_and_cycles_in_the_units_of_a_datasheet():
    assert rates(SHEET, "bf16", NUMBERS, share=0.9) == pytest.approx(
        {"peak": 4.5e14, "bandwidth": 8e11, "sharpness": 1.0, "overhead_s": 2e-6}
    )
    slower = replace(SHEET, clock_hz=1e9)
    assert rates(slower, "bf16", NUMBERS)["overhead_s"] == pytest.approx(4e-6)
    blocks = NUMBERS | {"row_cycles": 3000.0, "score_cycles": 0.1, "alone_cycles": 7.0}
    found = rates(SHEET, "bf16", blocks)
    assert found["row_s"] == pytest.approx(3e-9)
    assert found["score_s"] == pytest.approx(1e-13)
    assert found["alone_s"] == pytest.approx(7e-12)
    unknown = rates(replace(SHEET, clock_hz=0.0, sms=0), "bf16", blocks)
    assert unknown["row_s"] == pytest.approx(3000 / (100 * 1.8e9))


def test_a_product_by_hand():
    """137.4 GFLOP at 500 TFLOP/s and 100.7 MB at 0.8 TB/s, 2 us, 4096 / 4 ns of k."""
    profile = prior(SHEET, {"fits": FITS, "hosts": {}})
    op = ops.linear("gemm", (4096, 4096, 4096), 2)
    work = work_of([Sample.of(op, 1.0, "bf16")])
    seconds, half = profile.find("linear", "bf16").predict(work)
    compute, memory = 2 * 4096**3 / 5e14, 6 * 4096**2 / 8e11
    by_hand = math.hypot(compute, memory) + 2e-6 + 4096 * 0.25e-9
    assert seconds[0] == pytest.approx(by_hand)
    assert half[0] == 0.1  # compute takes longest
    small = work_of([Sample.of(ops.linear("gemm", (1, 64, 64), 2), 1.0, "bf16")])
    assert profile.find("linear", "bf16").predict(small)[1][0] == 0.3


def test_what_fits_the_cache_comes_at_its_rate():
    """0.4 bytes a cycle: 0.4 TB/s is slower than memory, 4 TB/s a fifth of it."""
    known = {"memory": 0.8, "cache": 4.0}
    assert levels(SHEET, known) == ((10**7, pytest.approx(0.2)), (BEYOND * 10**7, 1.0))
    assert levels(SHEET, {"memory": 0.8, "cache": 0.4})[0][1] == 1.0
    assert levels(SHEET, {"memory": 0.8}) == ()


@pytest.mark.parametrize(
    ("dims", "rows", "alone"),
    [
        ((2, 300, 0, 8, 4, 64), 2 * 8 * 3, 0),  # 300 queries are three blocks a head
        ((2, 1, 99, 8, 4, 64), 2 * 4, 0),  # two heads of a tile of 16 share their keys
        ((2, 1, 99, 32, 1, 64), 2 * 2, 0),
        ((2, 1, 99, 48, 1, 64), 2 * 3, 2 * 48 * (100 + 150)),  # too many to share them
    ],
)
def test_blocks_of_attention(dims, rows, alone):
    op = ops.attention("attention", dims, 2)
    work = work_of([Sample.of(op, 1.0, "bf16")])
    assert (work.rows[0], work.alone[0]) == (rows, alone)


def test_gpus_of_cuda_have_a_prior_and_nothing_else_has():
    for made in devices():
        assert (made.fits is not None) == (made.kind == "cuda")
        assert made.profile.split(":")[0] == ("prior" if made.fits else "datasheet")
        assert not made.calibrated
    h100, tpu = device("h100"), device("v5e")
    point = point_of(**STEP)
    assert [estimate([point], on)[0].model for on in (h100, tpu)] == [
        "prior",
        "roofline",
    ]
    assert estimate([point], h100, "roofline")[0].model == "roofline"
    with pytest.raises(ValueError, match="TPU v5e has no calibrated fit for bf16"):
        estimate([point], tpu, "prior")


def test_a_round_trip_through_json_keeps_the_prior():
    made = device("h100")
    again = Device.from_dict(json.loads(json.dumps(made.to_dict())))
    point = point_of(**STEP)
    assert estimate([point], again) == estimate([point], made)


@pytest.mark.parametrize(("batch", "new"), [(1, 0), (16, 5)])
def test_an_engine_adds_its_cost_to_each_step(batch, new):
    phase = {"phase": "generate", "new_tokens": new} if new else {}
    point = point_of(**STEP | GRAPH | phase, batch=batch)
    served = device("h100", engine="vllm")
    costs = stored()["engines"]["vllm"]
    [e] = estimate([point], served)
    passes = new or 1  # the prefill, and the further tokens
    added = passes * (costs["step_s"] + batch * costs["sequence_s"])
    busy = sum(share.seconds for share in breakdown(point, served)[:-1])
    assert e.seconds - busy == pytest.approx(added, rel=1e-6)
    assert e.profile == device("h100").profile + " + vllm"
    # Of four heads that share one of keys, three read them again in each step.
    [bare] = estimate([point], replace(served, fits=replace(served.fits, again_s=0)))
    rows = 2 * 2 * 8 * 128 * 32 * sum(129 + i for i in range(max(1, new - 1)))
    rate = served.fits.find("decode", "bf16").parameters["bandwidth"]
    again = costs["again"] * 3 * batch * rows / rate
    assert e.seconds - bare.seconds == pytest.approx(again, rel=1e-6)


def test_an_engine_reads_the_rows_that_are_filled():
    point = point_of(**STEP | GRAPH | {"phase": "generate", "new_tokens": 41})
    row = 2 * 2 * point.shape.kv_heads * point.shape.head_dim * point.shape.layers
    prompt = point.workload.prompt_len  # the prefill reads it, then each of 40 steps
    filled = prompt + sum(prompt + 1 + i for i in range(40))
    [all_rows], [own] = (
        estimate([point], device("h100", engine=name)) for name in ("", "vllm")
    )
    assert own.kv_read_bytes == row * filled
    assert all_rows.kv_read_bytes > own.kv_read_bytes
    assert all_rows.peak_bytes == own.peak_bytes


def test_an_engine_that_is_not_known_or_has_no_gpu_is_refused():
    with pytest.raises(ValueError, match=r"engine='vlm' .*did you mean vllm"):
        device("h100", engine="vlm")
    with pytest.raises(ValueError, match="needs a prior, and TPU v5e has none"):
        device("v5e", engine="vllm")


def test_a_band_is_wider_the_less_a_gpu_is_like_those_that_were_timed():
    fits = stored()["fits"]["decode 16-bit"]
    assert "NVIDIA H100 80GB HBM3" in fits["gpus"] and "NVIDIA H200" not in fits["gpus"]
    for name in ("h100", "h200", "l40s"):
        bands = device(name).fits.find("decode", "bf16").regimes
        # An H200 is an H100 with 4800 instead of 3350 GB/s; an L40S moves 864 GB/s by
        # 142 multiprocessors at 2520 MHz, an RTX PRO 6000 1597 by 188 at 2493.
        unlike = {"h100": 0.0, "h200": math.log(4800 / 3350)}
        unlike["l40s"] = math.log(1597 / (188 * 2493) / (864 / (142 * 2520)))
        wider = 1 + fits["apart"] * unlike[name]
        assert bands == pytest.approx([wider * h for h in fits["half"]], rel=1e-4)


def test_calls_that_wait_for_the_host_have_a_band_of_their_own():
    """gpt2 of one token: 12 layers of launches, and hardly any work."""
    made = device("h100")
    [e] = estimate([point_of(model="gpt2", prompt_len=1)], made)
    assert e.bound == "launch"
    assert e.seconds == pytest.approx(e.launches * made.fits.dispatch_s)
    assert math.log(e.high_s / e.seconds) == pytest.approx(stored()["host_half"])


def test_decode_of_an_8b_model_is_a_little_slower_than_its_bytes():
    """16.1 GB at 3.35 TB/s are 4.5 ms: replayed 5 to 7, eager at its launches."""
    point = point_of(**STEP | GRAPH)
    [e] = estimate([point], device("h100"))
    assert 15.01e9 / 3.35e12 < e.low_s < e.seconds < 8e-3
    assert e.bound == "memory"


# What stands in the file


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("linear 16-bit (aic_gemm)", (10, 13, 27)),
        ("linear fp8-dynamic (aic_gemm)", (18, 23, 47)),
        ("prefill 16-bit (aic_attention_prefill)", (15, 23, 46)),
        ("decode 16-bit (aic_attention_decode)", (15, 37, 60)),
        ("TensorRT-LLM (llm_inference_bench)", (7, 7, 15)),
        ("vLLM (llm_inference_bench)", (5, 8, 13)),
        ("PyTorch eager (neusight_forward)", (8, 15, 20)),
    ],
)
def test_stored_scores_of_gpus_left_out(what, most):
    rows = {
        r["method"]: r
        for r in stored()["scores"]
        if (r["what"], r["of"]) == (what, "all")
    }
    made = rows["prior, GPU left out"]
    assert made["median"] <= most[0] and made["mean"] <= most[1]
    assert made["p90"] <= most[2] and 87.5 <= made["inside"] <= 94
    for other in ("datasheet roofline", "efficiencies 0.7 / 0.9"):
        assert made["median"] < rows[other]["median"]


def test_every_number_of_a_class_is_one_that_a_gpu_can_have():
    for name, one in stored()["fits"].items():
        assert 0.2 < one["memory"] <= 1 and 1e3 < one["cycles"] < 1e5, name
        assert 0.01 < one.get("compute", 1) <= 1
        assert all(0 < half < 2.5 for half in one["half"])
        assert one["n"] or one["from"] in stored()["fits"]
    for table in stored()["provenance"].values():
        assert table["source"] and table["licence"] and len(table["sha256"]) == 16
