"""Distillation: its losses by hand, its checks, and going on after a stop."""

import math
from typing import Any

import pytest
import torch

from fastlab.learning.distilling import (
    DistillConfig,
    distill,
    distill_loss,
    relative_error,
    seen,
    soft_loss,
)
from fastlab.learning.loop import Training
from fastlab.models import build
from fastlab.spec import point_of
from tests.small import same_weights

HOW = Training(batch=4, block=16, warmup=2)
IDS = torch.randint(512, (600,), generator=torch.Generator().manual_seed(0))


def model(name: str = "tiny-llama", seed: int = 0, **over: int) -> torch.nn.Module:
    return build(point_of(model=name, weights=f"random:{seed}", **over))


def test_the_soft_loss_equals_a_hand_worked_number():
    """Teacher 3/4, 1/4, student 1/2, 1/2, both at temperature 2.

    KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; times 2^2 = 0.523248.
    """
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    student = torch.zeros(1, 2)
    assert float(soft_loss(student, teacher, 2.0)) == pytest.approx(0.523248, abs=1e-6)
    both = soft_loss(student.repeat(5, 1), teacher.repeat(5, 1), 2.0)
    assert float(both) == pytest.approx(0.523248, abs=1e-6)


def test_a_relative_error_of_nothing_known_is_one():
    other = torch.tensor([3.0, 4.0])
    assert float(relative_error(torch.zeros(2), other)) == 1.0
    assert float(relative_error(other, other)) == 0.0


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2", "tiny-qwen3"])
def test_a_student_equal_to_its_teacher_has_zero_loss(name):
    config = DistillConfig(kl=1.0, hidden=1.0, layers={0: 0, 1: 1})
    loss = distill_loss(model(name), model(name), config)
    assert float(loss(IDS[:40].view(2, 20))) == pytest.approx(0, abs=1e-7)


def test_without_a_teacher_it_is_the_loss_of_training():
    student, ids = model(seed=1), IDS[:40].view(2, 20)
    loss = distill_loss(student, model(), DistillConfig(kl=0.0))(ids)
    assert float(loss) == pytest.approx(float(student(ids, labels=ids).loss), rel=1e-6)


def test_hidden_states_are_those_of_transformers():
    made, ids = model(), IDS[:20].view(1, 20)
    made(ids, output_hidden_states=True)  # transformers hooks layers for itself
    before = len(made.model.layers[0]._forward_hooks)
    whole = made(ids, output_hidden_states=True)
    logits, kept = seen(made, ids, [1, 0])
    assert torch.equal(logits, whole.logits[0])
    assert torch.equal(kept[0], whole.hidden_states[1])  # what leaves layer 0
    assert torch.equal(made.model.norm(kept[1]), whole.hidden_states[2])
    assert len(made.model.layers[0]._forward_hooks) == before


def test_a_student_learns_from_its_teacher():
    """The teacher's logits are made large, so that there is something to learn."""
    teacher, student = model(seed=1), model(layers=1)
    teacher.lm_head.weight.mul_(20)
    rows = distill(student, teacher, IDS, 30, config=DistillConfig(kl=1.0), how=HOW)
    assert rows[-1]["loss"] < 0.95 * rows[0]["loss"]
    assert not student.training
    assert not any(p.requires_grad for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_distillation_goes_on_and_ends_with_the_same_weights(tmp_path):
    config = DistillConfig(hidden=0.5, layers={0: 1})
    whole = model(layers=1)
    distill(whole, model(seed=1), IDS, 6, config=config, how=HOW)

    def stop(row: dict[str, float]) -> None:
        if row["step"] == 4:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"config": config, "how": HOW, "folder": tmp_path}
    pair = model(layers=1), model(seed=1)
    with pytest.raises(KeyboardInterrupt):
        distill(*pair, IDS, 6, save_every_s=0, on_row=stop, **options)
    student = model(layers=1)
    distill(student, model(seed=1), IDS, 6, **options)
    assert same_weights(whole, student)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"temperature": 0}, "temperature=0 must be above 0"),
        ({"kl": 1.5}, r"kl=1\.5 must be from 0 to 1"),
        ({"hidden": -1}, "hidden=-1 must be 0 or more"),
        ({"hidden": 1}, r"hidden=1 and layers={} go together"),
    ],
)
def test_bad_configs_are_refused(over, words):
    with pytest.raises(ValueError, match=words):
        DistillConfig(**over)


@pytest.mark.parametrize(
    ("student", "layers", "text", "block", "words"),
    [
        ({"vocab": 300}, {}, IDS, 16, r"vocab=300 of the student must be .* 512"),
        ({}, {0: 2}, IDS, 16, "teacher has no layer 2; it has 0 to 1"),
        ({"hidden": 32}, {0: 0}, IDS, 16, "equal widths; the student has 32"),
        ({}, {}, IDS, 600, "text of 600 tokens is shorter than one"),
        ({}, {}, "some text", 16, "tokenizer=None"),
        ({"name": "tiny-bert"}, {}, IDS, 16, "model_type of the student='bert' is not"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(student, layers, text, block, words):
    config = DistillConfig(hidden=float(bool(layers)), layers=layers)
    how = Training(block=block)
    with pytest.raises(ValueError, match=words):
        distill(model(**student), model(), text, 1, config=config, how=how)
