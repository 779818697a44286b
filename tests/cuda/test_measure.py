"""Rows of a GPU: memory, graphs, trouble of every kind, and what comes after it."""

import pytest
import torch

import fastlab as fl
from fastlab.clock import measure as module
from fastlab.clock.measure import Bench, DeviceLost
from fastlab.clock.peak import peak_bytes
from fastlab.clock.timing import Settings
from fastlab.models import build, numerics
from fastlab.runtime.engines import prepare
from fastlab.spec import point_of
from fastlab.sweeps.run import measured, rows_of
from fastlab.sweeps.store import Store
from tests.cuda.device import CAPTURING
from tests.cuda.standin import standin

TINY = {"model": "tiny-llama", "layers": 1, "prompt_len": 8}
POINT = point_of(**TINY)


@pytest.fixture
def bench(gpu):
    settings = Settings.for_device(
        "cuda", budget_s=0.1, warmup_calls=1, warmup_s=0, n_min=3, n_max=6
    )
    return Bench.for_device("cuda", settings, fl.device("h200"))


def test_peak_memory_is_the_allocators_own(gpu):
    """Weights (512-byte blocks) and ids, and at most 3 MiB of what a run makes."""

    class Call:
        ids = torch.ones(100, device="cuda")  # 400 bytes, of which 512 are taken

        def reset(self):
            pass

        def run(self):
            a = torch.ones(2**18, device="cuda")  # 1 MiB
            b = torch.cat([a, a])  # 2 MiB more
            del a
            return b[:2].clone()

    others = torch.ones(2**20, device="cuda")  # another's: the flush buffer's, say
    model = torch.nn.Linear(16, 16, device="cuda")  # 1,024 and 64 bytes
    call = Call()
    call.held = Call.ids
    before = gpu.allocated
    peak, out = peak_bytes(model, call, "cuda")
    assert before == others.nbytes + 512 + 1024 + 512
    assert peak == 400 + 1024 + 64 + 3 * 2**20
    assert gpu.peak == before + 3 * 2**20
    assert out.tolist() == [1, 1]


def test_a_row_has_the_peak_of_its_run_without_the_flush_buffer(gpu, bench):
    record = bench.measure(POINT)
    assert record.status == "ok", record.reason
    weights = record.effective.weight_bytes
    assert weights < record.measured.peak_bytes < weights + 2**20
    assert gpu.peak > 256 * 2**20  # which the clock's buffer alone takes


def test_a_graph_is_captured_once_and_replayed(gpu, bench):
    """One launch a step; its logits are those of eager steps."""
    how = {**TINY, "phase": "decode", "cache": "static"}
    points = point_of(**how), point_of(**how, runtime="graph")
    models = [build(p, "cuda") for p in points]
    with numerics("fp32"):
        eager, graph = (
            prepare(m, p, "cuda") for m, p in zip(models, points, strict=True)
        )
        expected = eager.run()
        for _ in range(3):
            graph.reset()
            graph.run()
        graph.reset()
        began = gpu.host_ns
        found = graph.run()
    assert gpu.host_ns - began == gpu.launch_ns
    assert torch.equal(expected, found)
    assert gpu.calls["CUDAGraph"] == 1
    assert [made["fullgraph"] for made in gpu.compiled] == [True]
    record = bench.measure(points[1])
    assert record.status == "ok", record.reason
    assert set(record.measured.enqueue_ns) == {gpu.launch_ns}
    assert "launch_bound" not in record.measured.flags


@pytest.mark.parametrize("unroll", [1, 4])
def test_generations_of_a_graph(gpu, unroll):
    how = {**TINY, "phase": "generate", "new_tokens": 9, "cache": "static"}
    points = point_of(**how), point_of(**how, runtime="graph", unroll=unroll)
    with numerics("fp32"):
        tokens = [prepare(build(p, "cuda"), p, "cuda").run() for p in points]
    assert torch.equal(*tokens)


def test_what_a_capture_forbids(gpu):
    """The rules by which `captured` was written: no wait and no copy from the host."""
    x = torch.ones(2, device="cuda")
    for forbidden in (
        torch.cuda.synchronize,
        x.sum().item,
        x.cpu,
        lambda: torch.ones(2).to("cuda"),
        lambda: bool((x > 0).all()),
    ):
        graph = torch.cuda.CUDAGraph()
        with (
            pytest.raises(
                torch.AcceleratorError, match=r"previous error|not permitted"
            ),
            torch.cuda.graph(graph),
        ):
            forbidden()
    assert "not permitted when stream is capturing" in CAPTURING
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x + 1
        x.add_(1)
    assert (x.tolist(), y.tolist()) == ([1, 1], [0, 0])  # nothing ran yet
    graph.replay()
    graph.replay()
    assert (x.tolist(), y.tolist()) == ([3, 3], [3, 3])


def test_out_of_memory_is_a_row_and_the_sweep_goes_on(gpu, bench, tmp_path):
    """Room for the small model, not for a large one; twice, and once more after."""
    bench.measure(POINT)
    bench.release()
    gpu.limit = gpu.allocated + 8 * 2**20
    large = point_of(family="llama", layers=2, hidden=1024, vocab=1000)
    again = point_of(**{**TINY, "layers": 2})
    with Store(tmp_path) as store:
        rows = list(measured([POINT, large, again], store, bench, iter))
        assert [r.status for r in rows] == ["ok", "oom", "ok"]
        assert rows[1].reason.startswith("OutOfMemoryError: CUDA out of memory.")
        assert rows[1].measured is None
        assert rows[2].measured.peak_bytes < 8 * 2**20
        seen = gpu.launches
        assert list(measured([POINT, large, again], store, bench, iter)) == []
        assert len(rows_of([POINT, large, again], store, bench)) == 3
    assert gpu.allocated < 257 * 2**20  # all but the flush buffer was let go
    assert gpu.launches - seen < 300  # the copy that each start measures, no point


def test_memory_that_runs_out_in_the_middle_of_timing(gpu, bench):
    """The model fits, its activations do not."""
    bench.measure(POINT)
    gpu.limit = gpu.allocated + 2**20
    record = bench.measure(point_of(**{**TINY, "prompt_len": 400, "batch": 8}))
    assert (record.status, record.measured) == ("oom", None)
    assert bench.measure(POINT).status == "ok"


def test_a_lost_device_is_said_in_words(gpu, bench, tmp_path):
    """An illegal access shows at the next wait; from then on every call fails."""
    second = point_of(**{**TINY, "prompt_len": 9})
    with Store(tmp_path) as store:
        rows = measured([POINT, second], store, bench, iter)
        assert next(rows).status == "ok"
        gpu.breaks_at = gpu.launches + 100
        with pytest.raises(DeviceLost) as caught:
            next(rows)
    assert "an illegal memory access was encountered" in str(caught.value)
    assert "Start the same command again" in str(caught.value)
    with pytest.raises(torch.AcceleratorError):
        torch.cuda.synchronize()
    with standin(), Store(tmp_path) as store:  # a new process
        bench = Bench.for_device("cuda", bench.settings, fl.device("h200"))
        left = list(measured([POINT, second], store, bench, iter))
        assert [(r.point, r.status) for r in left] == [(second, "ok")]


@pytest.mark.parametrize("launch", range(1, 400, 37))
def test_wherever_a_device_is_lost(gpu, bench, launch):
    """In building, warming up, timing: always DeviceLost, never a row."""
    gpu.breaks_at = gpu.launches + launch
    with pytest.raises(DeviceLost):
        bench.measure(POINT)


def test_other_errors_lose_no_device(gpu, bench, monkeypatch):
    def fails(*_args):
        raise RuntimeError("CUDA error: invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(module, "prepare", fails)
        assert bench.measure(POINT).status == "error"
    assert bench.measure(POINT).status == "ok"
