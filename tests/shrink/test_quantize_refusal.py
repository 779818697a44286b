"""What a device can run: told by name, from its operators and its capability."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastlab import machine
from fastlab.spec.formats import PRECISIONS, QUANTIZED

ALL_FLAGS = {"avx512_bf16", "avx512_fp16", "amx_bf16"}


@pytest.fixture
def able_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: ALL_FLAGS)


def lacking(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Operators:
        def __getattr__(self, wanted: str) -> Any:
            if wanted == name:
                raise AttributeError(wanted)
            return getattr(torch.ops.aten, wanted)

    monkeypatch.setattr(torch, "ops", type("ops", (), {"aten": Operators()})())


def gpu(monkeypatch: pytest.MonkeyPatch, *capability: int) -> None:
    monkeypatch.setattr(machine, "_capability", lambda: capability)


@pytest.mark.usefixtures("able_cpu")
def test_a_cpu_with_everything_runs_all_but_tf32_and_fp8() -> None:
    refused = {p for p in PRECISIONS if machine.unsupported_reason("cpu", p)}
    assert refused == {"tf32", "fp8", "fp8-dynamic"}
    assert "8.9" in machine.unsupported_reason("cpu", "fp8")


def test_a_cpu_that_only_emulates_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: {"avx2"})
    said = machine.unsupported_reason("cpu", "int8")
    assert said.startswith("int8 computes in bf16: bf16 is emulated")
    assert machine.unsupported_reason("cpu", "autocast-fp16").startswith(
        "autocast-fp16 computes"
    )
    assert machine.unsupported_reason("cpu", "bf16").startswith("bf16 is emulated")
    assert machine.unsupported_reason("cpu", "fp32") == ""


@pytest.mark.usefixtures("able_cpu")
@pytest.mark.parametrize(
    ("precision", "name"),
    [
        ("int8", "_weight_int8pack_mm"),
        ("int8-dynamic", "_int_mm"),
        ("int4-g64", "_weight_int4pack_mm_for_cpu"),
    ],
)
def test_a_torch_without_the_product(
    monkeypatch: pytest.MonkeyPatch, precision: str, name: str
) -> None:
    lacking(monkeypatch, name)
    said = machine.unsupported_reason("cpu", precision)
    assert (
        said == f"{precision} needs aten.{name}, which torch {torch.__version__} lacks"
    )


def test_gpus_by_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, 9, 0)
    assert {p for p in PRECISIONS if machine.unsupported_reason("cuda", p)} == set()
    gpu(monkeypatch, 8, 0)
    assert {p for p in PRECISIONS if machine.unsupported_reason("cuda", p)} == {
        "fp8",
        "fp8-dynamic",
    }
    gpu(monkeypatch, 7, 5)
    refused = {p for p in PRECISIONS if machine.unsupported_reason("cuda", p)}
    assert refused == {"tf32", "bf16", "autocast-bf16", *QUANTIZED}
