"""The training loop that training and distillation share; they differ by their loss.

What a step reads and draws depends on the seed and the step's number alone, so that a
run which goes on after a stop ends with the very same weights.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastlab.learning.tokens import Blocks
from fastlab.record import write_atomically
from fastlab.spec.checks import check_choice, check_count

Loss = Callable[[Tensor], Tensor]  # ids (batch, block + 1) -> mean nats
Row = dict[str, float]  # of a loss curve
OnRow = Callable[[Row], None]
Evaluate = Callable[[nn.Module], float]
STATE, CURVE = "state.pt", "curve.jsonl"  # a checkpoint, and its curve as JSON lines
NUMERICS = ("fp32", "autocast-bf16")
LAYER = re.compile(r"(^|\.)(layers|h)\.")  # in the names of a layer's parameters


@dataclass(frozen=True)
class Training:
    """How a model is trained, apart from how long.

    batch sequences of block tokens a step. Matrices within layers are moved by Muon
    with step matrix_lr, all else by AdamW with step lr; matrix_lr = 0 leaves everything
    to AdamW. Both decay weights by weight_decay x step. The steps grow over the first
    warmup steps, stay, and shrink to nothing over the last ones: a share `decay` of a
    planned number. clip: the largest norm of a gradient. compiled: torch.compile of the
    loss, which takes a minute first.
    """

    batch: int = 16
    block: int = 512
    lr: float = 3e-3
    matrix_lr: float = 0.02
    weight_decay: float = 0.1
    warmup: int = 50
    clip: float = 1.0
    precision: str = "fp32"
    seed: int = 0
    compiled: bool = False
    decay: float = 0.25

    def __post_init__(self) -> None:
        for name, low in {"batch": 1, "block": 1, "warmup": 0, "seed": 0}.items():
            check_count(name, getattr(self, name), low=low)
        check_choice("precision", self.precision, NUMERICS)
        for name in ("lr", "matrix_lr", "weight_decay", "clip", "decay"):
            value, high = getattr(self, name), 1e9 if name == "clip" else 1
            if not 0 <= value <= high or (name in ("lr", "clip") and not value):
                raise ValueError(f"{name}={value!r} must be from 0 to {high:g}")


@dataclass(frozen=True)
class Plan:
    """How long: the step at which learning rates begin to shrink, and the last one.

    None: not known yet, rates stay as they are until it is.
    """

    decay_from: int | None = None
    end: int | None = None

    @classmethod
    def of(cls, steps: int, decay: float = 0.25, done: int = 0) -> Plan:
        """So many steps after `done`, the last `decay` of them with shrinking rates."""
        check_count("steps", steps)
        return cls(done + steps - max(1, round(steps * decay)), done + steps)

    def factor(self, step: int, warmup: int) -> float:
        """What learning rates are multiplied by at a step, from 0 to 1."""
        up = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if self.decay_from is None or self.end is None or step < self.decay_from:
            return up
        left = (self.end - step) / max(1, self.end - self.decay_from)
        return up * max(0.0, left)


def optimizers(model: nn.Module, how: Training) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest; norms do not decay."""
    named, decay = dict(model.named_parameters()), how.weight_decay
    hidden = [n for n, p in named.items() if p.ndim == 2 and LAYER.search(n)]
    matrices = [named.pop(n) for n in hidden] if how.matrix_lr else []
    rest = list(named.values())
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=how.lr, betas=(0.9, 0.95))
    if not matrices:
        return [adamw]
    return [adamw, torch.optim.Muon(matrices, lr=how.matrix_lr, weight_decay=decay)]


@dataclass
class Trainer:
    """A model, its optimizers, the step they have come to, and where the run is kept.

    folder: of its checkpoint, which it goes on from; None keeps nothing. save_every_s:
    seconds of work that a kill can lose at most, as long as one step takes less.
    evaluate: called on the model every evaluate_every steps; its value goes into the
    curve's rows as "held_out". The curve is part of the checkpoint, so that a run which
    goes on repeats no step.

    Raises ValueError unless the weights are fp32, or for another model's checkpoint.
    """

    model: nn.Module
    blocks: Blocks
    loss_of: Loss
    how: Training
    folder: Path | None = None
    save_every_s: float = 60.0
    evaluate: Evaluate | None = None
    evaluate_every: int = 250
    log_every: int = 10

    def __post_init__(self) -> None:
        dtypes = {p.dtype for p in self.model.parameters()}
        if dtypes != {torch.float32}:
            raise ValueError(
                f"weights in {', '.join(sorted(map(str, dtypes)))} cannot be trained: "
                "load the model with precision='fp32'"
            )
        self.model.train().requires_grad_(True)
        self.optimizers = optimizers(self.model, self.how)
        if self.how.compiled:
            self.loss_of = torch.compile(self.loss_of)
        self.device = next(self.model.parameters()).device
        self.plan, self.step, self.seconds = Plan(), 0, 0.0
        self.curve: list[Row] = []
        self._since: list[Row] = []  # rows of steps that the curve has not yet
        if self.folder and (path := self.folder / STATE).exists():
            self._restore(torch.load(path, map_location="cpu", weights_only=True))

    @property
    def done(self) -> bool:
        """Whether the plan's last step has been taken."""
        return self.plan.end is not None and self.step >= self.plan.end

    def plan_steps(self, steps: int) -> None:
        """So many steps in all, unless the run has a plan from before its stop."""
        if self.plan.end is None:
            self.plan = Plan.of(max(1, steps - self.step), self.how.decay, self.step)
        elif steps != self.plan.end:
            raise ValueError(f"steps={steps}: the run here ends at {self.plan.end}")

    def finish(self, steps: int | None = None) -> None:
        """Shrink learning rates from here on and end; usually after a quarter more.

        A run that is finishing already goes on with that, unless steps says otherwise.
        """
        begun = self.plan.decay_from
        if steps is not None or begun is None or self.step <= begun:
            self.plan = Plan.of(steps or max(1, self.step // 4), 1.0, self.step)

    def run(self, on_row: OnRow | None = None, minutes: float | None = None) -> None:
        """Steps up to the plan's end; with minutes, of which a fifth is for finishing.

        on_row sees a row after each step: {step, loss, rate, seconds}, seconds of that
        step. Rows of the curve are means over log_every steps.
        """
        saved = time.monotonic()
        while not self.done:
            row = self.advance()
            self._log(row)
            if on_row is not None:
                on_row(row)
            if time.monotonic() - saved >= self.save_every_s:
                self.save()
                saved = time.monotonic()
            if minutes and self.seconds > 48 * minutes and self.plan.end is None:
                self.finish()
        self.save()

    def advance(self) -> Row:
        """One step: {step, loss in nats per token, rate as a fraction, seconds}.

        Raises FloatingPointError where the loss is no finite number.
        """
        began, rate = time.perf_counter(), self.plan.factor(self.step, self.how.warmup)
        loss = self._loss()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"loss={value} at step {self.step + 1}")
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.how.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        spent = time.perf_counter() - began
        self.seconds += spent
        return {"step": self.step, "loss": value, "rate": rate, "seconds": spent}

    def _loss(self) -> Tensor:
        ids = self.blocks.at(self.step).to(self.device)
        kind, half = self.device.type, self.how.precision == "autocast-bf16"
        cuda = [torch.cuda.current_device()] if kind == "cuda" else []
        autocast = torch.autocast(kind, torch.bfloat16, enabled=half)
        with torch.random.fork_rng(devices=cuda), autocast:
            torch.manual_seed(self.how.seed * 1_000_003 + self.step)  # for dropout
            return self.loss_of(ids)

    def _log(self, row: Row) -> None:
        """Add the mean of the steps since the last row to the curve, if one is due."""
        self._since.append(row)
        due = [self.done or not self.step % self.log_every]
        if self.evaluate is not None:
            due.append(self.done or not self.step % self.evaluate_every)
        if not any(due):
            return
        rows, self._since = self._since, []
        tokens = len(rows) * self.how.batch * self.how.block
        mean = {
            "step": row["step"],
            "loss": round(sum(each["loss"] for each in rows) / len(rows), 5),
            "rate": round(row["rate"], 5),
            "tokens_per_s": round(tokens / sum(each["seconds"] for each in rows), 1),
            "seconds": round(self.seconds, 1),
        }
        if self.evaluate is not None and due[1]:
            mean["held_out"] = self.evaluate(self.model)
        self.curve.append(mean)

    def save(self) -> None:
        """Keep state and curve now; a kill at any moment leaves the last whole ones."""
        if self.folder is None:
            return
        state = {
            "model": dict(self.model.named_parameters()),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "plan": [self.plan.decay_from, self.plan.end],
            **{"step": self.step, "seconds": self.seconds, "curve": self.curve},
        }
        lines = "".join(json.dumps(row) + "\n" for row in self.curve)
        write_atomically(self.folder / STATE, lambda fresh: torch.save(state, fresh))
        write_atomically(self.folder / CURVE, lambda fresh: fresh.write_text(lines))

    def _restore(self, state: dict[str, Any]) -> None:
        kept = state["model"]
        sizes = {name: p.shape for name, p in kept.items()}
        if sizes != {name: p.shape for name, p in self.model.named_parameters()}:
            raise ValueError("the checkpoint is of a model with other weights")
        self.model.load_state_dict(kept, strict=False)  # no buffers, tied weights once
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.plan, self.curve = Plan(*state["plan"]), state["curve"]
        self.step, self.seconds = state["step"], state["seconds"]


def next_token_loss(model: nn.Module) -> Loss:
    """The loss of a language model: mean nats per predicted token."""

    def loss_of(ids: Tensor) -> Tensor:
        logits = model(ids[:, :-1], use_cache=False).logits.float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return loss_of
