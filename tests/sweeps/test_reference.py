"""data/reference: what is committed is whole, and found by its points."""

import json

import pytest

from fastlab.spec import grid, point_of
from fastlab.sweeps.reference import reference_for, references
from fastlab.sweeps.store import Store


@pytest.mark.parametrize("reference", references(), ids=lambda r: r.folder.name)
def test_every_reference_is_whole_and_names_its_environments(reference):
    health = Store(reference.folder).health()
    assert (health.bad, health.torn) == ([], [])
    assert {r.device for r in reference.records} == {reference.device}
    assert all(r.status == "ok" for r in reference.records)
    run = json.loads((reference.folder / "run.json").read_text())
    assert {r.env for r in reference.records} <= set(run["environments"])
    for environment in run["environments"].values():
        assert environment["device"] == reference.device
        assert environment["versions"]["torch"]


def test_the_defaults_of_notebook_05_are_replayed_whole():
    points = grid(
        family="llama",
        layers=[2, 4, 8],
        hidden=[256, 512, 768],
        precision=["fp32", "bf16", "fp16"],
        phase=["prefill", "decode"],
        vocab=8192,
    )
    reference = reference_for(points)
    assert [r.point for r in reference.rows(points)] == points


def test_no_reference_has_a_point_that_nobody_measured():
    assert reference_for([point_of(model="tiny-llama", weights="random:99")]) is None
