"""A format that is one row is everywhere: int4-g256, the last that was added."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import fastlab as fl
from fastlab.cli import main
from fastlab.figures.style import look_of
from fastlab.shrink.kernels import int4, quantized_linear
from fastlab.spec.formats import FORMATS, PRECISIONS, QUANTIZED

FORM = FORMATS["int4-g256"]


def test_it_rounds_as_plain_torch_does_and_better_where_it_clips(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """16 codes over each group's range: s = (max - min) / 15."""
    weight = torch.randn(48, 512, generator=torch.Generator().manual_seed(0))
    groups = weight.view(48, 2, 256)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = (high - low) / 15
    plain = (((groups - low) / scale).round() * scale + low).view(48, 512)
    got = quantized_linear(FORM, weight, None).dense()
    error, whole = ((x - weight).square().sum() for x in (got, plain))
    assert 0.6 * whole < error < whole
    monkeypatch.setattr(int4, "CLIPS", (1.0,))
    torch.testing.assert_close(quantized_linear(FORM, weight, None).dense(), plain)


def test_it_is_measured_by_the_command_line(tmp_path: Path) -> None:
    shape = ["--family", "llama", "--layers", "1", "--hidden", "256", "--vocab", "64"]
    how = ["--phase", "decode", "--precision", "bf16,int4-g256", "--device", "cpu"]
    quick = ["--budget-s", "0.02", "--store", str(tmp_path)]
    run = CliRunner().invoke(main, ["measure", *shape, *how, *quick])
    assert run.exit_code == 0, run.output
    rows = fl.Store(tmp_path).records()
    assert {r.point.recipe.precision: r.status for r in rows}["int4-g256"] == "ok"


def test_fewer_scales_are_estimated_to_take_less() -> None:
    step = {"model": "llama-3.1-8b", "phase": "decode", "runtime": "decoder"}
    points = fl.grid(**step, precision=["bf16", "int4-g128", "int4-g256"])
    seconds = [one.seconds for one in fl.estimate(points, fl.device("h200"))]
    assert seconds == sorted(seconds, reverse=True)


def test_every_format_looks_like_itself_and_has_its_class() -> None:
    looks = [tuple(look_of(name, "decode").values()) for name in PRECISIONS]
    assert len({*looks}) == len(PRECISIONS)
    for form in (FORMATS[name] for name in QUANTIZED):
        made = quantized_linear(form, torch.ones(16, 256), None)
        assert (type(made).__name__, made.form) == (form.linear, form)
