"""fastlab predict: a row per operation with its time, help for every option."""

import pytest
from click.testing import CliRunner

from fastlab.cli import main
from fastlab.clock import calibrate
from fastlab.latency.devices import device
from fastlab.latency.estimates import estimate
from fastlab.reading import texts
from fastlab.spec import GRID_FIELDS, point_of
from fastlab.spec.grids import about


def predict(*args: str):
    return CliRunner().invoke(main, ["predict", "--on", "h200", *args])


def test_operations_have_their_time_and_a_sum():
    done = predict("--model", "llama-3.1-8b", "--precision", "bf16", "--operations")
    lines = [line.split() for line in done.output.splitlines() if line.strip()]
    assert {"operation", "ms", "share", "bound"} <= set(lines[2])
    point = point_of(model="llama-3.1-8b", precision="bf16")
    [e] = estimate([point], device("h200"))
    total = next(line for line in lines if line[0] == "sum")
    assert float(total[1]) == pytest.approx(e.seconds * 1e3, rel=5e-3)
    assert total[2:4] == ["100", "%"]
    assert total[-1] == str(e.launches)
    gate = next(line for line in lines if line[0] == "mlp.gate")
    assert gate[4] in ("compute", "memory")


@pytest.mark.parametrize(
    "how",
    [
        ("--precision", "int4-g128", "--runtime", "graph", "--phase", "decode"),
        ("--precision", "fp8-dynamic", "--scope", "all"),
        ("--precision", "autocast-bf16", "--attention", "eager"),
        ("--cache", "static-int8", "--prefix-len", "100"),
        ("--phase", "generate", "--runtime", "decoder", "--unroll", "4"),
    ],
)
def test_any_recipe_is_predicted(how):
    for extra in ((), ("--operations",)):
        done = predict("--model", "llama-3.2-1b", *how, *extra)
        assert done.exit_code == 0, done.output
        assert "e+" not in done.output  # times have no exponent


def test_every_option_says_what_it_is():
    shown = " ".join(predict("--help").output.split())
    for name in GRID_FIELDS:
        assert f"--{name.replace('_', '-')} A[,B...] {about(name)}" in shown
    assert about("logits") == "positions scored in a prefill: all, last [all]"
    assert about("share_bits").endswith("2, 3, 4, 6 [none]")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--hidden 100", "give --layers too, or a --model"),
        ("--model gpt2 --precision fp8 --on a100", "has no fp8 peak"),
    ],
)
def test_what_cannot_be_predicted_is_named(args, words):
    done = predict(*args.split())
    assert done.exit_code == 2
    assert words in done.output


def test_a_derived_table_shows_the_columns_that_it_has():
    """As notebook 08's: rungs, without the fields of points."""
    import pandas as pd

    from fastlab.cli.points import shown

    rows = pd.DataFrame(
        {
            "rung": ["static", "our decoder"],
            "precision": "bf16",
            "measured_ms": [93.383, 50.3931],
            "reason": "",
            "mbu_copy": [0.44, 0.81],
        }
    )
    found = shown(rows)
    assert list(found) == ["rung", "precision", "measured_ms"]
    assert texts(found)["measured_ms"].tolist() == ["93.4", "50.4"]


def test_points_that_do_not_fit_are_named():
    args = ("--model", "llama-3.1-8b", "--precision", "fp32", "--on", "t4")
    for extra in ((), ("--operations",)):
        done = predict(*args, *extra)
        words = "llama 32x4096 fp32 prefill 128 needs 32.2 GB of 17.2 GB"
        assert f"does not fit: {words}" in done.output
    assert "does not fit" not in predict("--model", "llama-3.1-8b").output
    many = predict(*args, "--prompt-len", "1,2,3,4,5,6,7")
    assert many.output.count("does not fit: ") == 5
    assert "nor do 2 more of these points" in many.output


def test_operations_tell_causal_work_where_it_is_less():
    long = predict("--model", "gpt2", "--prompt-len", "1024", "--operations")
    rows = {x.split()[0]: x.split() for x in long.output.splitlines() if x.strip()}
    assert rows["attention"][6:8] == ["38,654.71", "19,346.23"]
    assert "causal MFLOPs: without the masked pairs" in long.output
    one = predict("--model", "gpt2", "--phase", "decode", "--operations")
    assert "causal" not in one.output


def test_what_an_estimate_is_made_from_is_told(monkeypatch, profile):
    said = "estimated, not calibrated: by a prior of public timings of GPUs, none of"
    assert said in predict("--model", "gpt2").output
    tpu = predict("--model", "gpt2", "--precision", "bf16", "--on", "v5e").output
    assert "at all that the datasheet promises, with no prior" in tpu
    busy = calibrate.marked_busy(profile, "other programs took 1.2 cores")
    monkeypatch.setattr(calibrate, "this_device", lambda *_: busy)
    done = CliRunner().invoke(main, ["predict", "--model", "gpt2"])
    assert "with rates of a busy machine: other programs took 1.2 cores" in done.output
    assert f"({busy.profile})" in done.output and busy.profile.endswith(" (busy)")
    assert said not in done.output


@pytest.mark.parametrize(("precision", "borrowed"), [("int8", True), ("bf16", False)])
def test_products_that_nobody_timed_are_said_to_be_borrowed(precision, borrowed):
    done = predict("--model", "gpt2", "--precision", precision, "--on", "h100")
    said = f"products in {precision}: no public timing was found, so it is borrowed"
    assert (said in done.output) == borrowed


def test_a_serving_engine_runs_graphs_and_takes_its_time():
    eager, served = (
        predict("--model", "llama-3.1-8b", "--precision", "bf16", *more, "--on", "h100")
        for more in (["--phase", "decode"], ["--phase", "decode", "--engine", "vllm"])
    )
    [launches] = [line for line in eager.output.splitlines() if "launch" in line][1:]
    assert " launch " in launches  # eager code waits for its host
    assert "+ vllm)" in served.output and " memory " in served.output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--engine vlm --on h100", "engine='vlm' is not one of"),
        ("--engine vllm --on v5e", "needs a prior, and TPU v5e has none"),
        ("--engine vllm --on here", "engine='vllm' needs a GPU by name: --on h100"),
        ("--datasheet --on here", "--datasheet needs --on GPU"),
        ("--datasheet --on h100 --engine vllm", "and no --engine"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(args, words):
    done = predict("--model", "gpt2", "--precision", "bf16", *args.split())
    assert done.exit_code == 2 and words in done.output


def test_the_datasheet_alone_is_the_roofline():
    """233 launches of 8 us each: at best they are all that it takes."""
    done = predict("--model", "gpt2", "--on", "h100", "--datasheet")
    assert "(datasheet:h100)" in done.output
    assert f"{233 * 8e-3:.3g} - " in done.output  # ms
