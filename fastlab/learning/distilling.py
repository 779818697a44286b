"""`distill`: a student model learns the teacher's next-token distributions.

The loop is that of training; only the loss differs. The temperature loss is that of
Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastlab.learning.loop import (
    Evaluate,
    Loss,
    OnRow,
    Row,
    Trainer,
    Training,
    next_token_loss,
)
from fastlab.learning.tokens import Blocks, check_tokenizer, token_ids
from fastlab.models import stack_of
from fastlab.spec.checks import check_choice, check_count

DECODERS = ("gpt2", "llama", "qwen3")  # families that predict the next token


@dataclass(frozen=True)
class DistillConfig:
    """What the student is told: loss = kl x KL + (1 - kl) x CE + hidden x MSE.

    KL: between the distributions at this temperature, times its square. CE: of the
    text's own next token. MSE: of the residual stream after each pair of layers
    {student's: teacher's}, relative to the teacher's mean square.
    """

    temperature: float = 2.0
    kl: float = 0.9
    hidden: float = 0.0
    layers: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 100:
            raise ValueError(
                f"temperature={self.temperature!r} must be above 0, at most 100"
            )
        if not 0 <= self.kl <= 1:
            raise ValueError(f"kl={self.kl!r} must be from 0 to 1")
        if self.hidden < 0:
            raise ValueError(f"hidden={self.hidden!r} must be 0 or more")
        if bool(self.hidden) != bool(self.layers):
            raise ValueError(
                f"hidden={self.hidden!r} and layers={dict(self.layers)!r} go together: "
                "both or neither"
            )


def distill(
    student: nn.Module,
    teacher: nn.Module,
    text: str | Tensor,
    steps: int,
    *,
    tokenizer: Any = None,
    config: DistillConfig | None = None,
    how: Training | None = None,
    folder: str | Path | None = None,
    save_every_s: float = 60.0,
    on_row: OnRow | None = None,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 250,
) -> list[Row]:
    """Train the student in place on the teacher's logits; returns the loss curve.

    text: with a tokenizer, or ids (tokens,). folder: checkpoints are kept there, and
    the same call after a stop goes on from the last one. on_row sees each step's
    {step, loss, rate, seconds}. evaluate: of the student, after so many steps; its
    value is "held_out" in the curve. The student must be fp32; at the end it is in the
    state for inference again. Raises ValueError for no steps, for vocabularies, layers
    or widths that do not fit, and for a text shorter than one block.
    """
    check_count("steps", steps)
    how, config = how or Training(block=256, warmup=20), config or DistillConfig()
    check_pair(student, teacher, config)
    if isinstance(text, str):
        if tokenizer is None:
            raise ValueError("tokenizer=None: text needs one; allowed without: ids")
        transformer: Any = student
        check_tokenizer(tokenizer, transformer.config.vocab_size)
        text = token_ids(tokenizer, text)
    blocks = Blocks(text, how.block, how.batch, how.seed)
    teacher.eval().requires_grad_(False)
    loss = distill_loss(student, teacher, config)
    keep = Path(folder) if folder else None, save_every_s, evaluate, evaluate_every
    trainer = Trainer(student, blocks, loss, how, *keep)
    trainer.plan_steps(steps)
    trainer.run(on_row)
    student.eval().requires_grad_(False)
    return trainer.curve


def check_pair(student: Any, teacher: Any, config: DistillConfig) -> None:
    """Raise ValueError where such a student cannot learn such a config."""
    vocab, taught = (model.config.vocab_size for model in (student, teacher))
    if vocab != taught:
        words = f"vocab={vocab} of the student must be the teacher's, {taught}"
        raise ValueError(words)
    for who, model, layers in (
        ("student", student, config.layers.keys()),
        ("teacher", teacher, config.layers.values()),
    ):
        check_choice(f"model_type of the {who}", model.config.model_type, DECODERS)
        last = len(stack_of(model)) - 1
        for layer in layers:
            if not 0 <= layer <= last:
                words = f"layers: {who} has no layer {layer}; it has 0 to {last}"
                raise ValueError(words)
    width, wanted = (model.config.hidden_size for model in (student, teacher))
    if config.layers and width != wanted:
        raise ValueError(
            f"hidden={config.hidden} needs equal widths; the student has {width}, "
            f"the teacher {wanted}"
        )


def distill_loss(student: nn.Module, teacher: nn.Module, config: DistillConfig) -> Loss:
    """The loss of a config as a function of ids (batch, block + 1).

    A config that asks the teacher nothing is the text's own loss.
    """
    if not (config.kl or config.hidden):
        return next_token_loss(student)

    def loss_of(ids: Tensor) -> Tensor:
        inputs, targets = ids[:, :-1], ids[:, 1:].flatten()
        with torch.no_grad():
            wanted, theirs = seen(teacher, inputs, config.layers.values())
        logits, own = seen(student, inputs, config.layers)
        loss = config.kl * soft_loss(logits, wanted, config.temperature)
        loss = loss + (1 - config.kl) * F.cross_entropy(logits, targets)
        for mine, its in config.layers.items():
            error = relative_error(own[mine], theirs[its])
            loss = loss + config.hidden / len(config.layers) * error
        return loss

    return loss_of


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean nats over rows.

    Logits (rows, vocab). T^2 keeps the gradient's size where T changes.
    """
    mine = F.log_softmax(student / temperature, dim=-1)
    its = F.log_softmax(teacher / temperature, dim=-1)
    kl = F.kl_div(mine, its, reduction="batchmean", log_target=True)
    return kl * temperature**2


def relative_error(own: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference over the other's mean square: 0 if equal, 1 for zeros."""
    return F.mse_loss(own, other) / other.square().mean()


def seen(
    model: nn.Module, ids: Tensor, layers: Iterable[int] = ()
) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits (rows, vocab) and what leaves each of `layers`, all in fp32.

    Taken at the layers themselves: the last of transformers' hidden_states has been
    through the final norm, the others have not.
    """
    outputs: dict[int, Tensor] = {}

    def keep(layer: int, _module: Any, _inputs: Any, out: Any) -> None:
        outputs[layer] = (out[0] if isinstance(out, tuple) else out).float()

    with ExitStack() as hooks:
        for layer in layers:
            hook = stack_of(model)[layer].register_forward_hook(partial(keep, layer))
            hooks.enter_context(hook)
        logits = model(ids, use_cache=False).logits
    return logits.float().flatten(0, 1), outputs
