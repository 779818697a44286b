"""The fit of the prior, on timings whose truth is known; scores and tables by hand."""

import gzip
import math

import numpy as np
import pytest

from benchmarks import fit_prior, score_prior
from benchmarks.public_timings import Kernels, Whole, read
from fastlab.cost import ops
from fastlab.latency.prior import place, rates, stored
from fastlab.latency.profile import formula
from fastlab.latency.samples import work
from fastlab.spec import point_of

TRUTH = {
    **{"compute": 0.7, "memory": 0.85, "sharpness": 1.2},
    **{"cycles": 6000.0, "split_cycles": 80.0},
}
GPUS = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB")
LINEAR = next(one for one in fit_prior.CLASSES if one.name == "linear 16-bit")


def products(gpu: str, share: float = 1.0) -> Kernels:
    """Products of 1 to 16384 rows, as long as TRUTH says; share: of the card's peak."""
    sizes = [
        2 ** np.arange(0, 15, 2),
        2 ** np.arange(8, 15, 2),
        2 ** np.arange(8, 15, 2),
    ]
    dims = [one.ravel().astype(float) for one in np.meshgrid(*sizes)]
    op, n = ops.linear("gemm", tuple(dims), 2), len(dims[0])
    columns = work("linear", op.flops, op.bytes, np.ones(n), np.stack(dims, 1))
    on = fit_prior.device(gpu)
    seconds = formula(rates(on, "bf16", TRUTH, share), columns)
    none = np.zeros(n)
    shown = ("aic_gemm", gpu, "linear", "bf16", columns, none, seconds)
    return Kernels(*shown, seconds[:, None])


def test_the_truth_is_found_again_from_two_gpus():
    found = fit_prior.fit([products(gpu) for gpu in GPUS], LINEAR, {})
    assert {name: found[name] for name in TRUTH} == pytest.approx(TRUTH, rel=0.03)


def test_a_number_that_another_class_knows_is_taken_from_it():
    made = LINEAR._replace(fixed=("cycles", "other"))
    known = {"other": {"cycles": 6000.0}}
    found = fit_prior.fit([products(gpu) for gpu in GPUS], made, known)
    assert found["cycles"] == 6000.0
    assert found["compute"] == pytest.approx(0.7, rel=0.03)


def test_what_a_card_sustains_is_a_share_of_what_the_fits_say(monkeypatch):
    monkeypatch.setattr(fit_prior, "COMPUTE_S", 1e-4)
    kernels = [products(GPUS[0]), products(GPUS[1], share=0.6)]
    shares = fit_prior.sustained(kernels, {"linear 16-bit": TRUTH})
    assert shares[fit_prior.device(GPUS[1]).name]["16-bit"] == pytest.approx(
        0.6, rel=0.05
    )


def noisy(gpu: str, sd: float, seed: int) -> Kernels:
    """Products whose times are off from TRUTH by a normal log error."""
    one, draw = products(gpu), np.random.default_rng(seed)
    off = np.exp(sd * draw.standard_normal(len(one.seconds)))
    return one._replace(seconds=one.seconds * off)


def banded(gpus: list, others: dict[str, str]) -> dict:
    """The bands of products on `gpus`, each predicted from one of the `others`."""
    fits = {g: TRUTH | {"gpus": {o: place_of(o)}} for g, o in others.items()}
    without = {g: {"fits": {"linear 16-bit": fit}} for g, fit in fits.items()}
    without |= {fit_prior.architecture(g): one for g, one in without.items()}
    return fit_prior.bands(gpus, without)["linear 16-bit"]


def place_of(gpu: str) -> list[float]:
    return place(fit_prior.device(gpu), "bf16")


def test_bands_hold_nine_of_ten_rows_of_gpus_left_out():
    found = banded(
        [noisy(gpu, 0.1, 0) for gpu in GPUS], dict(zip(GPUS, GPUS, strict=True))
    )
    assert found["half"] == pytest.approx([0.1645] * 3, rel=0.3)  # 1.645 sd
    assert found["apart"] == 0.0  # none is unlike what it was predicted from


def test_bands_widen_as_far_as_gpus_that_are_unlike_the_others_need():
    # The A100 moves 2039 GB/s by 108 multiprocessors at 1410 MHz, and multiplies at 312
    # TFLOP/s; of the RTX PRO 6000's 1597, 188, 2493 and 480 a cycle has 1/3.93 as much.
    alike, unlike = GPUS[0], "NVIDIA RTX PRO 6000 Blackwell Server"
    far = math.log(2039 / (108 * 1410) / (1597 / (188 * 2493)))
    gpus = [noisy(alike, 0.1, 0), noisy("NVIDIA H200", 0.1, 2), noisy(unlike, 0.15, 1)]
    from_ = {alike: alike, "NVIDIA H200": "NVIDIA H200", unlike: GPUS[1]}
    found = banded(gpus, from_)
    assert far == pytest.approx(math.log(3.93), rel=1e-2)
    assert found["apart"] in (0.3, 0.4, 0.5)  # 1 + 0.37 log 3.93 = 1.5 times as wide
    assert found["half"] == pytest.approx([0.1645] * 3, rel=0.3)


def test_costs_of_an_engine_are_a_line_in_the_batch():
    base, steps, batch = (
        np.full(6, 2.0),
        np.full(6, 100.0),
        np.array([1, 2, 4, 8, 16, 32]),
    )
    again = np.array([0.1, 0.0, 0.4, 0.3, 0.0, 0.9])
    measured = base + steps * (1e-3 + 5e-5 * batch) + 0.25 * again
    found = fit_prior._three_costs(measured, base, steps, batch, again)
    costs = {"step_s": 1e-3, "sequence_s": 5e-5, "again": 0.25}
    assert found == pytest.approx(costs, rel=1e-3)


def test_every_cuda_gpu_has_an_architecture():
    known = stored()["architectures"]
    assert known["NVIDIA GeForce RTX 4090"] == "Ada"
    assert known["NVIDIA GeForce RTX 3090"] == known["NVIDIA A40"] == "Ampere"
    assert known["NVIDIA RTX PRO 6000 Blackwell Server"] == "Blackwell RTX"
    assert fit_prior.architecture("NVIDIA GB300") == "Blackwell"


# Tables


GEMM = "gpu,dtype,m,n,k,ms_sglang,ms_trtllm,ms_vllm\n"
LIB = (
    "gpu,gpus,software,model,len,batch,seconds,tokens_per_s,faster_than_datasheet,"
    "fits_memory\n"
)


def test_tables_are_read_with_the_counts_of_the_cost_model(tmp_path):
    line = "NVIDIA H100 80GB HBM3,bf16,16,32,64,0.004,,0.002\n"
    (tmp_path / "aic_gemm.csv").write_text(GEMM + line)
    llama = "NVIDIA H100 80GB,1,vLLM,meta-llama/Llama-2-7b-hf,128,2,1.5,1,False,"
    with gzip.open(tmp_path / "llm_inference_bench.csv.gz", "wt") as file:
        file.write(LIB + llama + "True\n" + llama + "False\n")
    [kernels], [whole] = read(tmp_path)
    assert kernels.work.flops == 2 * 16 * 32 * 64
    assert kernels.work.bytes == 2 * (16 * 64 + 32 * 64 + 16 * 32)
    assert kernels.seconds == pytest.approx(3e-6)  # the median of two
    (first, once), (step, often) = whole.parts
    assert (first.workload.phase, once, often) == ("prefill", 1, 127)
    assert step.workload.positions == 192  # 128 + 64: the mean, and no row is empty


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has none of these tables: aic_gemm"):
        read(tmp_path)


# Scores


def test_errors_are_of_measured_over_estimated_and_bands_are_counted():
    """1.1 and 0.8 of what was said, within 15 % and not; then by regime."""
    said, timed = np.array([1.0, 2.0]), np.array([1.1, 1.6])
    rest = (said, timed, np.full(2, math.log(1.15)), np.array([0, 1]))
    one = score_prior.Scored("x", "gpu", "m", *rest)
    row = score_prior._errors("x", "all", "m", [one])
    assert row["median"] == pytest.approx(15) and row["bias"] == pytest.approx(-5)
    assert row["inside"] == 50
    assert score_prior._errors("x", "compute bound", "m", [one])["inside"] == 100
    assert score_prior._errors("x", "memory bound", "m", [one])["n"] == 1


def test_a_call_is_scored_without_what_was_learnt_on_its_gpu():
    point = point_of(model="gpt2", precision="fp16")
    one = Whole("t", "NVIDIA H100 80GB", "s", ((point, 3),), 1.0)
    found = {row.method: row for row in score_prior._whole(one)}
    assert list(found) == [*score_prior.LEFT_OUT, *score_prior.EFFICIENCIES]
    left_out = score_prior.without("NVIDIA H100 80GB", score_prior.LEFT_OUT[1])
    hopper = stored()["without"]["Hopper"]["fits"]["linear 16-bit"]
    assert left_out.fits.find("linear", "fp16").parameters["peak"] == pytest.approx(
        hopper["compute"] * 989.4e12
    )
    unknown = one._replace(engine="none such")
    assert [row.method for row in score_prior._whole(unknown)] == [
        *score_prior.EFFICIENCIES
    ]
