"""Training: the loop, its schedule, its checkpoints, and the folder that loads."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fastlab.checkpoints import load
from fastlab.cli import main
from fastlab.learning.loop import (
    CURVE,
    STATE,
    Plan,
    Trainer,
    Training,
    next_token_loss,
    optimizers,
)
from fastlab.learning.tokens import Blocks
from fastlab.learning.training import Run, train
from fastlab.models import build
from fastlab.spec import ModelShape, point_of
from tests.small import same_weights

ROOT = Path(__file__).parents[2]
HOW = Training(batch=4, block=16, warmup=2)
TINY = ModelShape("llama", 2, 32, heads=4, kv_heads=2, ffn=64, vocab=300, tied=True)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = (f"for n in range({n % 97}):\n    total += n * {n}\n" for n in range(9000))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def trainer(
    folder: Path | None = None, family: str = "llama", how: Training = HOW, **keep: Any
) -> Trainer:
    model = build(point_of(model=f"tiny-{family}"))
    ids = torch.randint(512, (600,), generator=torch.Generator().manual_seed(0))
    blocks = Blocks(ids, how.block, how.batch)
    return Trainer(model, blocks, next_token_loss(model), how, folder, **keep)


def test_learning_rates_rise_stay_and_fall_to_nothing():
    plan = Plan.of(steps=10, decay=0.4)
    assert (plan.decay_from, plan.end) == (6, 10)
    found = [plan.factor(step, warmup=4) for step in range(10)]
    assert found == [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert Plan().factor(10**6, 4) == 1
    assert Plan.of(5, 1.0, done=100) == Plan(100, 105)


def test_muon_moves_the_matrices_of_layers_and_adamw_the_rest():
    model = build(point_of(model="tiny-llama")).requires_grad_()
    adamw, muon = optimizers(model, HOW)
    assert type(muon).__name__ == "Muon"
    assert len(muon.param_groups[0]["params"]) == 2 * 7  # q k v o, gate up down
    norms = adamw.param_groups[1]
    assert [p.ndim for p in norms["params"]] == [1] * 5
    assert norms["weight_decay"] == 0
    (only,) = optimizers(model, Training(matrix_lr=0))
    assert type(only).__name__ == "AdamW"


def test_the_first_step_is_what_torch_does_by_hand():
    """One AdamW step on the same block: gradient, clipping, rate of the warm-up."""
    how = Training(batch=2, block=16, warmup=2, matrix_lr=0, weight_decay=0.0)
    made = trainer(how=how)
    ids = made.blocks.at(0)
    twin = build(point_of(model="tiny-llama")).requires_grad_()
    loss = torch.nn.functional.cross_entropy(
        twin(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten()
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
    options = {"lr": 1.5e-3, "betas": (0.9, 0.95), "weight_decay": 0}
    torch.optim.AdamW(twin.parameters(), **options).step()
    assert made.advance()["loss"] == pytest.approx(loss.item(), rel=1e-6)
    for mine, its in zip(made.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_run_that_goes_on_ends_with_the_same_weights(family, tmp_path):
    """gpt2 drops values out at random, so that random numbers are resumed too.

    The curve goes on from the checkpoint, not from its copy, which may be damaged.
    """
    whole = trainer(family=family)
    whole.plan_steps(6)
    whole.run()
    first = trainer(tmp_path, family, save_every_s=0, log_every=1)
    first.plan_steps(6)

    def stop(row: dict[str, float]) -> None:
        if row["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(stop)
    (tmp_path / CURVE).write_text('{"step": 1}\n{"step": 2}\n{"step": 9}\n{"st')
    second = trainer(tmp_path, family, save_every_s=0, log_every=1)
    assert second.step == 3
    with pytest.raises(ValueError, match="steps=9: the run here ends at 6"):
        second.plan_steps(9)
    second.plan_steps(6)
    second.run()
    assert [row["step"] for row in second.curve] == [1, 2, 3, 4, 5, 6]
    lines = (tmp_path / CURVE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == second.curve
    assert same_weights(whole.model, second.model)
    with pytest.raises(ValueError, match="of a model with other weights"):
        trainer(tmp_path, "qwen3")


def test_finishing_ends_an_open_run_from_where_it_is(tmp_path):
    first = trainer(tmp_path)
    first.plan = Plan(8, 8)
    first.run()
    later = trainer(tmp_path)
    later.finish()
    assert later.plan == Plan(8, 10)
    later.run()
    assert later.step == 10
    assert later.curve[-1]["rate"] == 0.5
    later.finish()
    assert later.done


def test_minutes_leave_a_fifth_for_finishing():
    made = trainer()
    made.seconds, made.step = 47.0, 40
    made.run(lambda row: setattr(made, "seconds", 49.0), minutes=1)
    assert made.plan == Plan(41, 51)


def test_a_loss_that_is_no_number_stops_the_run():
    made = trainer()
    with torch.no_grad():
        next(made.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="loss=nan at step 1"):
        made.advance()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"lr=0 must be from 0 to 1"):
        Training(lr=0)
    with pytest.raises(ValueError, match="batch=0 must be a whole number from 1"):
        Training(batch=0)
    with pytest.raises(ValueError, match="precision='bf16' is not one of fp32, auto"):
        Training(precision="bf16")
    model = build(point_of(model="tiny-llama", precision="bf16"))
    with pytest.raises(ValueError, match=r"torch\.bfloat16 cannot be trained"):
        Trainer(model, Blocks(torch.arange(99), 8, 1), next_token_loss(model), HOW)


def test_a_run_ends_in_a_folder_that_loads_and_says_what_it_is(text, tmp_path):
    run = Run(TINY, Training(batch=8, block=32, warmup=5), (str(text),))
    rows = train(tmp_path, run, steps=40)
    assert rows[-1]["held_out"] < 4.0 < rows[0]["loss"]
    out = tmp_path / "final"
    model, tokenizer = load(out)
    assert ModelShape.from_config(out) == TINY
    assert len(tokenizer) == 300
    kept = torch.load(tmp_path / STATE, weights_only=True)["model"]
    for name, weight in model.named_parameters():
        assert torch.equal(weight, kept[name].detach().bfloat16().float())
    made = json.loads((out / "run.json").read_text())
    assert made["parameters"] == sum(p.numel() for p in model.parameters())
    assert made["tokens"] == 40 * 8 * 32
    assert made["curve"][-1]["step"] == 40
    judged = made["held_out"]
    assert judged["low"] < judged["bits_per_byte"] < judged["high"] < 4
    assert made["text"]["held_out_sha256"] == judged["text_sha256"]
    stored = (out / "model.safetensors").stat().st_size
    assert stored == pytest.approx(2 * made["parameters"], rel=0.1)
    other = Run(TINY, Training(batch=2, block=32, warmup=5), (str(text),))
    with pytest.raises(ValueError, match=r"holds a run with batch=8, not 2: go on"):
        train(tmp_path, other, steps=1)


def test_a_killed_run_goes_on_from_its_last_checkpoint(text, tmp_path):
    sizes = "--layers 1 --hidden 32 --heads 2 --ffn 32 --vocab 300 --batch 2 --block 16"
    words = ["train", str(tmp_path), "--text", str(text), "--device", "cpu"]
    words += [*sizes.split(), "--save-every-s", "0.2"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([sys.executable, "-m", "fastlab", *words], cwd=ROOT, env=env)
    until = time.monotonic() + 600
    while not (tmp_path / STATE).exists() and run.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.5)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = torch.load(tmp_path / STATE, weights_only=True)["step"]
    assert kept > 0
    finish = ["train", str(tmp_path), "--finish", "--steps", "3"]
    done = CliRunner().invoke(main, finish)
    assert done.exit_code == 0, done.output
    assert f"{kept + 3:,} steps" in done.output
    assert (tmp_path / "final" / "model.safetensors").exists()


def test_the_command_refuses_what_cannot_be_trained(tmp_path):
    done = CliRunner().invoke(main, ["train", str(tmp_path), "--heads", "5"])
    assert done.exit_code == 2
    assert "heads=5" in done.output
    assert not list(tmp_path.iterdir())
