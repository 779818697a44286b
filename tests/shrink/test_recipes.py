"""Recipes as a whole: pruned, distilled, zeroed, quantized or shared, in that order."""

import json
from typing import Any

import pytest

import fastlab as fl
from fastlab.cost.memory import parameters
from fastlab.learning.loop import Training
from fastlab.shrink import recipes
from fastlab.shrink.recipes import build
from fastlab.shrink.share import distinct_layers
from fastlab.shrink.sparsify import sparsify
from fastlab.shrink.trained import Trained
from fastlab.spec import Point, point_of
from fastlab.spec.storage import Sparsity
from fastlab.sweeps.files import read_sweep
from tests.small import checkpoint, same_weights

CUTS: list[dict[str, Any]] = [
    {"prune_layers": 0.5},
    {"prune_layers": 0.5, "prune_layer_choice": "influence"},
    {"prune_ffn": 0.5, "prune_importance": "taylor"},
    {"prune_hidden": 0.25, "prune_heads": 0.5, "prune_importance": "activation"},
    {"prune_layers": 0.5, "prune_ffn": 0.25, "precision": "int8"},
    {"sparse_ratio": 0.5, "sparse_method": "wanda"},
    {"sparse_ratio": 0.9, "sparse_storage": "csr"},
    {"sparse_pattern": "2:4", "prune_ffn": 0.5},
    {"share_bits": 3, "share_rows": 8},
    {"share_bits": 4, "prune_layers": 0.5, "precision": "bf16"},
]


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_what_is_built_is_what_was_counted(cut):
    """Parameters by the estimate, made before anything is built, and by the model."""
    point = point_of(model="tiny-llama", prompt_len=8, **cut)
    settings = fl.Settings.for_device("cpu", budget_s=0.02)
    record = fl.measure(point, "cpu", settings, profile=fl.device("NVIDIA H200"))
    assert record.status == "ok", record.reason
    assert record.effective is not None and record.estimate is not None
    assert record.effective.parameters == record.estimate.parameters
    assert record.estimate.parameters == parameters(point.built_shape)
    assert record.quality is not None and record.quality.kl_nats > 0


def test_the_order_is_prune_then_zero_then_quantize():
    point = point_of(model="tiny-llama", prune_ffn=0.5, sparse_ratio=0.5)
    got = build(point)
    by_hand = fl.prune(build(point_of(model="tiny-llama")), fl.Pruning(ffn=0.5))
    by_hand = sparsify(by_hand, Sparsity(0.5))
    assert same_weights(got, by_hand)


def test_importances_of_random_weights_see_random_ids():
    """The same ids every time: equal points are equal models."""
    point = point_of(model="tiny-gpt2", prune_ffn=0.5, prune_importance="taylor")
    assert same_weights(build(point), build(point))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    text = "".join(f"{n} cats and {n * n} dogs.\n" for n in range(4000))
    return checkpoint(tmp_path_factory.mktemp("model"), text)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    how = Training(batch=2, block=32, warmup=1)
    monkeypatch.setattr(recipes, "HOW", how)


def student_point(trained: Trained, steps: int = 3, **recipe: Any) -> Point:
    recipe = {"prune_layers": 0.5, "distill_steps": steps} | recipe
    return point_of(model=trained.source, weights="trained", **recipe)


def test_a_student_is_made_once_and_kept(trained, quickly):
    point = student_point(trained)
    folder = recipes.student_folder(point.recipe, trained)
    first = build(point, trained=trained)
    run = json.loads((folder / "final" / "run.json").read_text())
    assert run["recipe"] == point.recipe.to_dict()
    assert run["teacher"] == trained.weights
    assert run["curve"][-1]["step"] == 3
    assert run["parameters"] == parameters(point.built_shape)
    touched = (folder / "state.pt").stat().st_mtime_ns
    again = build(student_point(trained, precision="int8"), trained=trained)
    assert (folder / "state.pt").stat().st_mtime_ns == touched
    assert type(again.model.layers[0].mlp.up_proj).__name__ == "Int8Linear"
    undistilled = build(student_point(trained, steps=0), trained=trained)
    assert not same_weights(first, undistilled)


def test_a_student_learns_with_the_layers_that_it_shares(trained, quickly):
    point = student_point(trained, prune_layers=0, distinct_layers=1)
    first = build(point, trained=trained)
    assert distinct_layers(first) == 1
    again = build(
        student_point(trained, prune_layers=0, distinct_layers=1), trained=trained
    )
    assert same_weights(first, again)
    alike = build(
        student_point(trained, 0, prune_layers=0, distinct_layers=1), trained=trained
    )
    assert not same_weights(first, alike)


def test_another_cut_is_another_student(trained):
    cuts = [student_point(trained, steps=n).recipe for n in (3, 4)]
    cuts.append(student_point(trained, prune_layer_choice="first").recipe)
    folders = {recipes.student_folder(cut, trained) for cut in cuts}
    assert len(folders) == 3


def test_students_need_a_folder_and_something_to_learn(trained):
    homeless = Trained(trained.source, trained.text)
    with pytest.raises(ValueError, match="distill_steps=3 needs students="):
        build(student_point(trained), trained=homeless)
    with pytest.raises(ValueError, match="distill_steps=3 needs trained weights"):
        point_of(model="tiny-llama", prune_layers=0.5, distill_steps=3)
    with pytest.raises(ValueError, match="needs something that is pruned"):
        point_of(model=trained.source, weights="trained", distill_steps=3)


def test_a_sweep_file_names_the_trained_model(trained, tmp_path):
    file = tmp_path / "sweep.yaml"
    lines = {"model": trained.source, "weights": "trained", "prune_ffn": [0, 0.5]}
    file.write_text(json.dumps({"text": list(trained.text), "grids": [lines]}))
    read = read_sweep(file)
    assert read.trained == trained.source
    assert read.text == trained.text
    assert [p.weights for p in read.points] == [trained.weights] * 2
