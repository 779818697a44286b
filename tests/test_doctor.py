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
from fastlab.health import (
    Finding,
    Report,
    Subject,
    folders,
    hardware,
    software,
    timing,
)
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


def test_a_failure_needs_a_fix():
    with pytest.raises(ValueError, match="'torch' must come with its fix"):
        Finding("torch", False, "too old")


def test_a_report_counts_and_is_a_table_in_a_notebook():
    report = Report((Finding("a", True, "1 < 2"), Finding("b", None, "not here")))
    assert report.ok
    assert repr(report).splitlines()[-1] == "1 OK, 1 skipped, 0 broken"
    page = report._repr_html_()
    other, fine = page.split("<details>")
    assert (other.count("<tr>"), fine.count("<tr>")) == (2, 2)
    assert "not here" in other
    assert "1 &lt; 2" in fine


def test_a_skip_is_not_broken_but_a_failure_is():
    assert not Report((Finding("a", True, "x"), Finding("b", False, "y", "z"))).ok


def test_old_torch_is_named_with_what_to_run(monkeypatch):
    installed(monkeypatch, torch="2.9.1")
    torch_line = found(software.packages)["torch"]
    assert torch_line.ok is False
    assert torch_line.said == "torch 2.9.1 is older than 2.11"
    assert "make test" in torch_line.fix
    assert ".venv/bin/python -m pip install -e ." in torch_line.fix
    assert "pip install " + "fastlab" not in str(torch_line)


def test_a_version_above_the_range_is_named(monkeypatch):
    installed(monkeypatch, ipywidgets="9.0.0")
    line = found(software.packages)["ipywidgets"]
    assert (line.ok, line.said) == (False, "ipywidgets 9.0.0 is not in <9,>=7.7")


@pytest.mark.parametrize("version", ["2.11.0+cu128", "2.14.0a0+git1234", "2.13.0"])
def test_builds_and_nightlies_of_torch_are_in_range(monkeypatch, version):
    installed(monkeypatch, torch=version)
    assert found(software.packages)["torch"].ok


@pytest.mark.parametrize("name", software.NOTEBOOKS_ONLY)
def test_what_only_notebooks_need_may_be_missing(monkeypatch, name):
    installed(monkeypatch, **{name: None})
    line = found(software.packages)[name]
    assert line.ok is None
    assert "needed for notebooks only" in line.said


def test_nvml_is_optional(monkeypatch):
    installed(monkeypatch, **{"nvidia-ml-py": None})
    line = found(software.packages)["nvidia-ml-py"]
    assert line.ok is None
    assert "optional" in line.said


def test_a_missing_dependency_is_a_failure_with_its_reason(monkeypatch):
    installed(monkeypatch, scipy=None)
    line = found(software.packages)["scipy"]
    assert line.ok is False
    assert line.said.startswith("not installed; for: ")


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


def test_a_misspelt_device_is_an_error_of_the_question():
    with pytest.raises(ValueError, match="did you mean cuda"):
        fastlab.doctor(device="cude")


def test_a_gpu_that_torch_cannot_use_fails(monkeypatch):
    monkeypatch.setattr(hardware, "_driver_sees_a_gpu", lambda: True)
    line = found(hardware.device, Subject("auto", "cpu"))["gpu"]
    assert line.ok is False
    assert "pytorch.org" in line.fix
    assert "gpu" not in found(hardware.device, CPU)  # asked for the CPU: no complaint


def test_no_driver_no_gpu(monkeypatch):
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


def nvml(monkeypatch, state):
    clock = SimpleNamespace(state=lambda: state)
    monkeypatch.setattr("fastlab.clock.clocks.clock_for", lambda kind: clock)
    return found(hardware.sharing, CUDA)


def test_other_processes_on_the_gpu_fail(monkeypatch):
    lines = nvml(monkeypatch, GpuState(0, frozenset({1, 2}), known=True))
    assert lines["shared GPU"].ok is False
    assert lines["shared GPU"].said == "2 processes compute on it"
    assert "nvidia-smi" in lines["shared GPU"].fix
    assert lines["GPU clocks"].ok


def test_a_throttled_gpu_fails(monkeypatch):
    lines = nvml(monkeypatch, GpuState(0x20, frozenset({1}), known=True))
    assert lines["shared GPU"].ok
    assert lines["GPU clocks"].ok is False


def test_without_nvml_nothing_is_claimed(monkeypatch):
    lines = nvml(monkeypatch, GpuState())
    assert [f.ok for f in lines.values()] == [None]


def test_a_clock_that_runs_backwards_fails(monkeypatch):
    ticks = iter([5, 4] * 5_000)
    clock = SimpleNamespace(now_ns=lambda: next(ticks))
    monkeypatch.setattr("fastlab.clock.clocks.clock_for", lambda kind: clock)
    line = timing.monotonic("cpu")
    assert (line.ok, line.said) == (False, "ran backwards 5000 times")


def test_a_slow_empty_call_fails(monkeypatch):
    monkeypatch.setattr(timing, "seconds", lambda run, kind: 150e-6)
    line = timing.empty_call("cpu")
    assert line.ok is False
    assert line.said.startswith("150.00 us; the limit is 100 us")


def timed_as(monkeypatch, *seconds):
    """The timer as if it said these, in turn."""
    said = iter(seconds)
    for name in ("seconds", "fastest"):
        monkeypatch.setattr(timing, name, lambda run, kind: next(said))


def test_a_product_that_grows_by_eight_is_plausible(monkeypatch):
    timed_as(monkeypatch, 0.002, 0.016)
    line = timing.known_product("cpu")
    assert line.ok
    assert "takes 8.0 x the time" in line.said
    assert "0.134 TFLOP/s" in line.said  # 2 x 1024^3 / 0.016 s


def test_a_disturbed_try_is_repeated(monkeypatch):
    timed_as(monkeypatch, 0.016, 0.016, 0.002, 0.016)
    assert timing.known_product("cpu").ok


def test_a_time_that_does_not_grow_fails(monkeypatch):
    # The launch only, without waiting for the device: the classic mistake.
    timed_as(monkeypatch, *[2e-5, 2e-5] * timing.TRIES)
    line = timing.known_product("cpu")
    assert line.ok is False
    assert "takes 1.0 x the time" in line.said


def test_an_impossible_rate_fails(monkeypatch):
    timed_as(monkeypatch, *[1e-6, 8e-6] * timing.TRIES)
    assert timing.known_product("cpu").ok is False


@pytest.mark.parametrize(("ours", "ok"), [(1.02e-3, True), (1.05e-3, False)])
def test_do_bench_has_to_agree(monkeypatch, ours, ok):
    timed_as(monkeypatch, *[ours] * timing.TRIES)
    monkeypatch.setattr(timing, "find_spec", lambda name: True)
    monkeypatch.setattr(timing, "product", lambda size, kind: None)
    monkeypatch.setattr(timing, "_do_bench_seconds", lambda run: 1e-3)
    line = timing.do_bench_agrees("cuda")
    assert line.ok is ok


def test_do_bench_is_skipped_without_triton(monkeypatch):
    monkeypatch.setattr(timing, "find_spec", lambda name: None)
    assert timing.do_bench_agrees("cuda").ok is None
    assert timing.do_bench_agrees("cpu").ok is None


def test_results_that_cannot_be_written_fail(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "_writable", lambda folder: False)
    line = found(folders.results)["results"]
    assert line.ok is False
    assert str(tmp_path) in line.said


def test_a_folder_that_is_not_there_is_not_writable(tmp_path):
    assert folders._writable(tmp_path)
    assert not folders._writable(tmp_path / "absent")


def test_a_full_disk_fails(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    full = SimpleNamespace(free=10 * 2**20)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda place: full)
    line = found(folders.results)["results"]
    assert line.ok is False
    assert "1.07 GB" in line.fix


def test_checking_results_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert found(folders.results)["results"].ok
    assert list(tmp_path.iterdir()) == []


def test_missing_devices_fail(monkeypatch):
    def gone():
        raise FileNotFoundError("data/devices.csv is missing")

    monkeypatch.setattr("fastlab.latency.devices.devices", gone)
    line = found(folders.data)["data/devices.csv"]
    assert line.ok is False
    assert "git status data" in line.fix


@pytest.mark.parametrize(("rows", "ok"), [("nothing", None), ("nvidia-h200", True)])
def test_reference_rows_are_named_or_skipped(monkeypatch, rows, ok):
    monkeypatch.setattr("fastlab.notebook.run.reference_devices", lambda: rows)
    assert found(folders.data)["data/reference"].ok is ok


def store_with(tmp_path: Path, text: str) -> Subject:
    (tmp_path / "a.jsonl").write_text(text)
    return Subject("cpu", "cpu", store=tmp_path)


def test_an_empty_store_is_healthy(tmp_path):
    line = found(folders.store, store_with(tmp_path, ""))["store"]
    assert line.ok
    assert line.said.startswith("0 rows in 1 files")


def test_bad_lines_of_a_store_are_named(tmp_path):
    line = found(folders.store, store_with(tmp_path, "{}\nrubbish\n"))["store"]
    assert line.ok is False
    assert "2 bad: a.jsonl line 1: " in line.said
    assert "a.jsonl line 2: not JSON" in line.said
    assert "delete the lines named here" in line.fix


def test_a_torn_tail_is_named_until_it_is_set_aside(tmp_path):
    subject = store_with(tmp_path, '{"half')
    line = found(folders.store, subject)["store tail"]
    assert (line.ok, line.said) == (False, "torn: a.jsonl")
    (tmp_path / "a.jsonl").rename(tmp_path / "a.jsonl.torn")
    assert found(folders.store, subject)["store tail"].ok


def test_a_store_that_is_not_there_fails(tmp_path):
    line = found(folders.store, Subject("cpu", "cpu", store=tmp_path / "no"))["store"]
    assert line.ok is False
    assert "is not a folder" in line.said


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


def test_the_command_reports_a_bad_store(monkeypatch, tmp_path):
    monkeypatch.setattr(health, "CHECKS", (folders.store,))
    store_with(tmp_path, "rubbish\n")
    result = CliRunner().invoke(main, ["doctor", "--store", str(tmp_path)])
    assert result.exit_code == 1
    assert "FAIL store: 0 rows in 1 files" in result.output
    assert result.output.endswith("0 OK, 0 skipped, 1 broken\n")


def test_a_misspelt_device_ends_the_command_with_2():
    result = CliRunner().invoke(main, ["doctor", "--device", "cude"])
    assert result.exit_code == 2
    assert "did you mean cuda?" in result.output


# ---- the profile


def profile_line(monkeypatch, device, launches=1.0, rate=1.0):
    """What doctor says where `device` is kept and the machine is so fast now."""
    monkeypatch.setattr(calibrate, "kept", lambda kind: device)
    monkeypatch.setattr(calibrate, "now_to_then", lambda device: (launches, rate))
    return found(timing.profile)["profile"]


def test_without_a_profile_doctor_says_when_one_is_made(monkeypatch):
    line = profile_line(monkeypatch, None)
    assert (line.ok, line.said[:12]) == (None, "none is kept")


def test_a_profile_is_compared_with_the_machine_as_it_is_now(monkeypatch, profile):
    line = profile_line(monkeypatch, profile, 1.2, 0.9)
    assert line.ok
    assert line.said.startswith("made up, peak, bandwidth and launches only")
    assert line.said.endswith("launches now x1.20, fp32 products x0.90")
    slower = profile_line(monkeypatch, profile, 80.0, 0.3)
    assert slower.ok is None
    assert "x80.00, fp32 products x0.30: other programs are running" in slower.said


def test_a_profile_of_a_crowded_machine_is_not_to_be_trusted(monkeypatch, profile):
    busy = calibrate.marked_busy(profile, "other programs took 1.2 cores")
    line = profile_line(monkeypatch, busy)
    assert line.ok is False
    assert "on a busy machine: other programs took 1.2 cores" in line.said


def test_a_whole_calibration_tells_its_points(monkeypatch):
    [stored] = [r for r in references() if r.folder.name == "xeon-2-threads"]
    line = profile_line(monkeypatch, stored.profile)
    assert "397 points in 153 s" in line.said
