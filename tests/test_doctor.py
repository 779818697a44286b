"""Doctor: all is well here, and each thing that can break is named with its fix."""

import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

import fastlab
from fastlab import health, machine
from fastlab.cli import main
from fastlab.clock import calibrate
from fastlab.clock.clocks import GpuState
from fastlab.health import Finding, Report, Subject, hardware, software
from fastlab.spec.formats import DENSE
from fastlab.sweeps.reference import references

CPU = Subject("cpu", "cpu")
CUDA = Subject("cuda", "cuda")


def found(check, subject=CPU):
    return {finding.name: finding for finding in check(subject)}


def installed(monkeypatch, **versions):
    """importlib.metadata as if these were installed; None = missing."""
    real = metadata.version

    def version(name):
        if name not in versions:
            return real(name)
        if versions[name] is None:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(software.metadata, "version", version)


@pytest.fixture(scope="module")
def here():
    return fastlab.doctor()


def test_nothing_is_broken_here_but_times_where_others_have_the_cores(here):
    disturbed = {"empty call", "known product", "do_bench"}
    assert {f.name for f in here.findings if f.ok is False} <= disturbed, here


def test_every_check_says_something_and_every_skip_says_why(here):
    names = [finding.name for finding in here.findings]
    assert len(names) == len(set(names))
    known = {"python", "torch", "device", *DENSE, "clock", "empty call", "store"}
    assert known <= set(names)
    assert all(len(f.said) > 2 for f in here.findings)


def test_a_precision_is_ok_exactly_where_the_machine_has_it(here):
    kind = machine.torch_device()
    for finding in here.findings:
        if finding.name in DENSE:
            refused = machine.unsupported_reason(kind, finding.name)
            assert (finding.ok is None) == bool(refused)
            assert refused in finding.said


def test_a_finding_prints_its_verdict_and_a_failure_its_fix():
    assert str(Finding("clock", True, "steady")) == "OK   clock: steady"
    assert str(Finding("tf32", None, "no GPU")) == "SKIP tf32: no GPU"
    broken = Finding("torch", False, "too old", "install it")
    assert str(broken) == "FAIL torch: too old\n     fix: install it"
    with pytest.raises(ValueError, match="'torch' must come with its fix"):
        Finding("torch", False, "too old")


def test_a_report_counts_and_is_a_table_in_a_notebook():
    report = Report((Finding("a", True, "1 < 2"), Finding("b", None, "not here")))
    assert report.ok  # a skip is not broken, but a failure is
    assert not Report((*report.findings, Finding("c", False, "y", "z"))).ok
    assert repr(report).splitlines()[-1] == "1 OK, 1 skipped, 0 broken"
    page = report._repr_html_()
    other, fine = page.split("<details>")
    assert (other.count("<tr>"), fine.count("<tr>")) == (2, 2)
    assert "not here" in other
    assert "1 &lt; 2" in fine


def test_old_torch_is_named_with_what_to_run(monkeypatch):
    installed(monkeypatch, torch="2.9.1")
    torch_line = found(software.packages)["torch"]
    assert torch_line.ok is False
    assert torch_line.said == "torch 2.9.1 is older than 2.11"
    assert ".venv/bin/python -m pip install -e ." in torch_line.fix
    assert "pip install " + "fastlab" not in str(torch_line)


@pytest.mark.parametrize(
    ("name", "version", "ok", "said"),
    [
        ("ipywidgets", "9.0.0", False, "ipywidgets 9.0.0 is not in <9,>=7.7"),
        ("torch", "2.11.0+cu128", True, "2.11.0+cu128"),  # builds and nightlies too
        ("torch", "2.14.0a0+git1234", True, "2.14.0a0+git1234"),
        ("papermill", None, None, "not installed; needed for notebooks only"),
        ("nvidia-ml-py", None, None, "not installed, optional: "),
        ("scipy", None, False, "not installed; for: "),
    ],
)
def test_versions_are_held_against_their_ranges(monkeypatch, name, version, ok, said):
    installed(monkeypatch, **{name: version})
    line = found(software.packages)[name]
    assert line.ok is ok
    assert line.said.startswith(said)


@pytest.mark.parametrize("version", ["3.10.14", "3.14.0"])
def test_a_python_out_of_range_fails(monkeypatch, version):
    monkeypatch.setattr(software.platform, "python_version", lambda: version)
    line = found(software.python)["python"]
    assert (line.ok, line.said) == (False, f"{version} is not in >=3.11,<3.14")
    assert "3.11" in line.fix


def test_a_device_that_is_not_here_fails_and_the_rest_is_skipped(monkeypatch):
    monkeypatch.setattr(machine, "_has_cuda", lambda: False)
    lines = {f.name: f for f in health.findings("cuda")}
    assert lines["device"].ok is False
    assert "it has cpu" in lines["device"].said
    assert lines["fp32"].ok is None
    assert lines["timer"].ok is None


def test_a_gpu_that_torch_cannot_use_fails(monkeypatch):
    monkeypatch.setattr(hardware, "_driver_sees_a_gpu", lambda: True)
    line = found(hardware.device, Subject("auto", "cpu"))["gpu"]
    assert line.ok is False
    assert "pytorch.org" in line.fix
    assert "gpu" not in found(hardware.device, CPU)  # asked for the CPU: no complaint
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert not hardware._driver_sees_a_gpu()


def test_wrong_numbers_of_a_precision_fail(monkeypatch):
    right = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: right(a, b) + a[0, 0])
    line = found(hardware.precisions)["fp32"]
    assert line.ok is False
    assert "wrong" in line.said


def test_tf32_in_the_place_of_fp32_is_wrong(monkeypatch):
    right = torch.Tensor.__matmul__

    def with_10_bits(a, b):
        if a.dtype != torch.float32:
            return right(a, b)
        return right((a.view(torch.int32) & ~0x1FFF).view(torch.float32), b)

    assert hardware.product_is_right("cpu", "fp32")
    monkeypatch.setattr(torch.Tensor, "__matmul__", with_10_bits)
    assert not hardware.product_is_right("cpu", "fp32")
    assert hardware.product_is_right("cpu", "tf32")  # there it is what was asked for


def test_a_product_that_the_device_refuses_fails(monkeypatch):
    def refuse(*_):
        raise RuntimeError('"addmm_impl_cpu_" not implemented for "Half"\nmore')

    monkeypatch.setattr(hardware, "product_is_right", refuse)
    line = found(hardware.precisions)["fp32"]
    assert line.ok is False
    assert line.said.endswith('not implemented for "Half"')


@pytest.mark.parametrize(
    ("state", "verdicts", "said"),
    [
        (GpuState(0, {1, 2}, known=True), [False, True], "2 processes compute on it"),
        (GpuState(0x20, {1}, known=True), [True, False], "no other process computes"),
        (GpuState(), [None], "unknown: NVML does not answer"),
    ],
)
def test_a_gpu_that_is_shared_or_throttled_fails(monkeypatch, state, verdicts, said):
    clock = SimpleNamespace(state=lambda: state)
    monkeypatch.setattr("fastlab.clock.clocks.clock_for", lambda kind: clock)
    lines = list(hardware.sharing(CUDA))
    assert [line.ok for line in lines] == verdicts
    assert lines[0].said.startswith(said)


def test_a_clock_that_runs_backwards_fails(monkeypatch):
    ticks = iter([5, 4] * 5_000)
    clock = SimpleNamespace(now_ns=lambda: next(ticks))
    monkeypatch.setattr("fastlab.clock.clocks.clock_for", lambda kind: clock)
    line = hardware.monotonic("cpu")
    assert (line.ok, line.said) == (False, "ran backwards 5000 times")


def timed_as(monkeypatch, *seconds):
    """The timer as if it said these, in turn."""
    said = iter(seconds)

    def measured(run, kind):
        now = next(said)
        return SimpleNamespace(seconds=now, device_ns=(now * 1e9,))

    monkeypatch.setattr(hardware, "measured", measured)


def test_a_slow_empty_call_fails(monkeypatch):
    timed_as(monkeypatch, 150e-6)
    line = hardware.empty_call("cpu")
    assert line.ok is False
    assert line.said.startswith("150.00 us; the limit is 100 us")


@pytest.mark.parametrize(
    ("seconds", "ok", "said"),
    [
        # eight times the FLOPs, and 2 x 1024^3 / 0.016 s
        ((0.002, 0.016), True, "takes 8.0 x the time of 512^3 (8 x the FLOPs), 0.134 "),
        ((0.016, 0.016, 0.002, 0.016), True, "8.0 x"),  # a disturbed try is repeated
        # The launch only, without waiting for the device: the classic mistake.
        ((2e-5, 2e-5) * hardware.TRIES, False, "takes 1.0 x the time"),
        ((1e-6, 8e-6) * hardware.TRIES, False, "268 TFLOP/s"),  # which no CPU has
    ],
)
def test_a_known_product_grows_by_eight_at_a_rate_there_is(
    monkeypatch, seconds, ok, said
):
    timed_as(monkeypatch, *seconds)
    line = hardware.known_product("cpu")
    assert line.ok is ok
    assert said in line.said


@pytest.mark.parametrize(
    ("ours", "triton", "ok"),
    [(1.02e-3, True, True), (1.05e-3, True, False), (1e-3, None, None)],
)
def test_do_bench_has_to_agree_where_there_is_triton(monkeypatch, ours, triton, ok):
    timed_as(monkeypatch, *[ours] * hardware.TRIES)
    monkeypatch.setattr(hardware, "find_spec", lambda name: triton)
    monkeypatch.setattr(hardware, "product", lambda size, kind: None)
    monkeypatch.setattr(hardware, "_do_bench_s", lambda run: 1e-3)
    assert hardware.do_bench_agrees("cuda").ok is ok
    assert hardware.do_bench_agrees("cpu").ok is None


def test_results_that_cannot_be_written_fail(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert found(software.results)["results"].ok
    assert list(tmp_path.iterdir()) == []  # checking leaves nothing behind
    full = SimpleNamespace(free=10 * 2**20)
    with monkeypatch.context() as patch:
        patch.setattr(software.shutil, "disk_usage", lambda place: full)
        line = found(software.results)["results"]
    assert line.ok is False
    assert "1.07 GB" in line.fix
    monkeypatch.setattr(software, "_writable", lambda folder: False)
    line = found(software.results)["results"]
    assert line.ok is False
    assert str(tmp_path) in line.said
    monkeypatch.undo()
    assert not software._writable(tmp_path / "absent")


def test_missing_devices_fail(monkeypatch):
    def gone():
        raise FileNotFoundError("data/devices.csv is missing")

    monkeypatch.setattr("fastlab.latency.devices.devices", gone)
    line = found(software.data)["data/devices.csv"]
    assert line.ok is False
    assert "git status data" in line.fix


@pytest.mark.parametrize(("rows", "ok"), [("nothing", None), ("nvidia-h200", True)])
def test_reference_rows_are_named_or_skipped(monkeypatch, rows, ok):
    monkeypatch.setattr("fastlab.notebook.run.reference_devices", lambda: rows)
    assert found(software.data)["data/reference"].ok is ok


def store_with(tmp_path: Path, text: str) -> Subject:
    (tmp_path / "a.jsonl").write_text(text)
    return Subject("cpu", "cpu", store=tmp_path)


def test_bad_lines_of_a_store_are_named(tmp_path):
    assert found(software.store, store_with(tmp_path, ""))["store"].ok
    line = found(software.store, store_with(tmp_path, "{}\nrubbish\n"))["store"]
    assert line.ok is False
    assert line.said.startswith("0 rows in 1 files")
    assert "2 bad: a.jsonl line 1: " in line.said
    assert "a.jsonl line 2: not JSON" in line.said
    assert "delete the lines named here" in line.fix
    line = found(software.store, Subject(store=tmp_path / "no"))["store"]
    assert line.ok is False
    assert "is not a folder" in line.said


def test_a_torn_tail_is_named_until_it_is_set_aside(tmp_path):
    subject = store_with(tmp_path, '{"half')
    line = found(software.store, subject)["store tail"]
    assert (line.ok, line.said) == (False, "torn: a.jsonl")
    (tmp_path / "a.jsonl").rename(tmp_path / "a.jsonl.torn")
    assert found(software.store, subject)["store tail"].ok


def test_a_check_that_stumbles_does_not_end_the_others(monkeypatch):
    def stumble(subject):
        yield Finding("first", True, "fine")
        raise AttributeError("module 'torch' has no attribute 'new'")

    def unready(subject):
        raise ModuleNotFoundError("No module named 'torch'")
        yield

    def last(subject):
        yield Finding("last", True, "fine")

    monkeypatch.setattr(health, "CHECKS", (stumble, unready, last))
    report = fastlab.doctor("cpu")
    assert [f.ok for f in report.findings] == [True, False, None, True]
    assert "no attribute 'new'" in report.findings[1].said


def test_without_torch_doctor_still_answers(monkeypatch):
    def absent():
        raise ModuleNotFoundError("No module named 'torch'")

    monkeypatch.setattr(machine, "_has_cuda", absent)
    monkeypatch.setitem(sys.modules, "torch", None)
    installed(monkeypatch, torch=None)
    lines = {f.name: f for f in health.findings()}
    assert lines["torch"].ok is False
    assert lines["device"].said == "No module named 'torch'"
    assert lines["fp32"].ok is None


CHECK_OK = (lambda subject: iter([Finding("a", True, "fine")]),)
CHECK_BAD = (lambda subject: iter([Finding("a", False, "off", "mend it")]),)


@pytest.mark.parametrize(("checks", "code"), [(CHECK_OK, 0), (CHECK_BAD, 1)])
def test_the_command_exits_1_if_something_is_broken(monkeypatch, checks, code):
    monkeypatch.setattr(health, "CHECKS", checks)
    result = CliRunner().invoke(main, ["doctor", "--device", "cpu"])
    assert result.exit_code == code
    words = ["OK   a: fine", "FAIL a: off\n     fix: mend it"][code]
    assert result.output.startswith(words)


def test_a_misspelt_device_ends_the_command_with_2():
    result = CliRunner().invoke(main, ["doctor", "--device", "cude"])
    assert result.exit_code == 2
    assert "did you mean cuda?" in result.output


# ---- the profile


@pytest.mark.parametrize(
    ("which", "now", "ok", "words"),
    [
        ("none", (1, 1), None, "none is kept: "),
        ("short", (1.2, 0.9), True, "up, peak, bandwidth and launches only: "),
        ("short", (1.2, 0.9), True, "; launches now x1.20, fp32 products x0.90"),
        ("short", (80, 0.3), None, "x80.00, fp32 products x0.30: other programs are"),
        ("busy", (1, 1), False, "on a busy machine: other programs took 1.2 cores"),
        ("whole", (1, 1), True, "397 points in 153 s"),
    ],
)
def test_a_profile_is_compared_with_the_machine_as_it_is_now(
    monkeypatch, profile, which, now, ok, words
):
    [stored] = [r for r in references() if r.folder.name == "xeon-2-threads"]
    busy = calibrate.marked_busy(profile, "other programs took 1.2 cores")
    kept = {"none": None, "short": profile, "busy": busy, "whole": stored.profile}
    monkeypatch.setattr(calibrate, "kept", lambda kind: kept[which])
    monkeypatch.setattr(calibrate, "now_to_then", lambda device: now)
    line = found(hardware.profile)["profile"]
    assert line.ok is ok
    assert words in line.said
