"""What a device can run: told by name, from its operators and its capability."""

from typing import Any

import pytest
import torch

from fastlab import machine
from fastlab.spec.formats import PRECISIONS, QUANTIZED

ALL_FLAGS = {"avx512_bf16", "avx512_fp16", "amx_bf16"}


def refused(device: str) -> set[str]:
    return {p for p in PRECISIONS if machine.unsupported_reason(device, p)}


def test_cpus_by_their_flags(monkeypatch):
    """One that has everything runs all but tf32 and fp8; an old one emulates bf16."""
    monkeypatch.setattr(machine, "cpu_flags", lambda: ALL_FLAGS)
    assert refused("cpu") == {"tf32", "fp8", "fp8-dynamic"}
    assert "8.9" in machine.unsupported_reason("cpu", "fp8")
    monkeypatch.setattr(machine, "cpu_flags", lambda: {"avx2"})
    for precision, words in {
        "int8": "int8 computes in bf16: bf16 is emulated",
        "autocast-fp16": "autocast-fp16 computes",
        "bf16": "bf16 is emulated",
    }.items():
        assert machine.unsupported_reason("cpu", precision).startswith(words)
    assert machine.unsupported_reason("cpu", "fp32") == ""


PRODUCTS = {
    "int8": "_weight_int8pack_mm",
    "int8-dynamic": "_int_mm",
    "int4-g64": "_weight_int4pack_mm_for_cpu",
}


@pytest.mark.parametrize(("precision", "name"), PRODUCTS.items())
def test_a_torch_without_the_product(monkeypatch, precision, name):
    class Operators:
        def __getattr__(self, wanted: str) -> Any:
            if wanted == name:
                raise AttributeError(wanted)
            return getattr(torch.ops.aten, wanted)

    monkeypatch.setattr(machine, "cpu_flags", lambda: ALL_FLAGS)
    monkeypatch.setattr(torch, "ops", type("ops", (), {"aten": Operators()})())
    reason = f"{precision} needs aten.{name}, which torch {torch.__version__} lacks"
    assert machine.unsupported_reason("cpu", precision) == reason


LACKING = {
    (9, 0): set(),
    (8, 0): {"fp8", "fp8-dynamic"},
    (7, 5): {"tf32", "bf16", "autocast-bf16", *QUANTIZED},
}


@pytest.mark.parametrize(("capability", "lacking"), LACKING.items())
def test_gpus_by_capability(monkeypatch, capability, lacking):
    monkeypatch.setattr(machine, "_capability", lambda: capability)
    assert refused("cuda") == lacking
