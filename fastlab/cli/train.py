"""fastlab train: a small language model from text, on this machine."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlab.cli.points import DEVICE_HELP, StepBar, main

if TYPE_CHECKING:
    from fastlab.learning.training import Run


@main.command()
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--text", multiple=True, type=click.Path(dir_okay=False), metavar="FILE")
@click.option("--steps", type=int, help="in all; with --finish, the last ones")
@click.option("--minutes", type=float, help="minutes of work in all, instead of steps")
@click.option("--finish", is_flag=True, help="shrink learning rates now, and end")
@click.option("--out", type=click.Path(file_okay=False), help="folder of the model")
@click.option("--family", help="llama, gpt2 or qwen3")
@click.option("--layers", type=int)
@click.option("--hidden", type=int)
@click.option("--heads", type=int)
@click.option("--kv-heads", type=int)
@click.option("--ffn", type=int)
@click.option("--vocab", type=int, help="tokens of the tokenizer that is trained first")
@click.option("--batch", type=int, help="sequences in a step")
@click.option("--block", type=int, help="tokens in a sequence")
@click.option("--lr", type=float, help="step of AdamW: embeddings, norms")
@click.option("--matrix-lr", type=float, help="step of Muon; 0 = AdamW for everything")
@click.option("--warmup", type=int, help="steps over which learning rates grow")
@click.option("--seed", type=int)
@click.option("--precision", help="fp32 or autocast-bf16")
@click.option("--compiled", type=bool, help="torch.compile; a minute, then faster")
@click.option("--save-every-s", type=float, help="seconds between checkpoints")
@click.option("--device", help=DEVICE_HELP)
def train(
    folder: str, steps: int | None, minutes: float | None, finish: bool, **options: Any
) -> None:
    """Train a small language model in FOLDER; without --text on Python's own library.

    After Ctrl-C or a kill, the same command goes on from the last checkpoint. With
    neither --steps nor --minutes it goes on until it is stopped, and --finish ends it.
    """
    from fastlab.learning.training import train as trained

    out = options.pop("out")
    given = {name: value for name, value in options.items() if value not in (None, ())}
    run = _run(Path(folder), given)
    with closing(StepBar(steps)) as bar:
        trained(folder, run, steps, minutes, finish, bar.update, out)
    _echo_end(Path(out or Path(folder) / "final"))


def _run(folder: Path, given: dict[str, Any]) -> Run | None:
    """What the options say; None where the folder says it all."""
    from fastlab import machine
    from fastlab.learning.training import SETTINGS, Run
    from fastlab.spec.shape import override

    if (folder / SETTINGS).exists() and not given:
        return None
    kind = machine.torch_device(given.get("device", "auto"))
    native = "fp32" if machine.unsupported_reason(kind, "bf16") else "autocast-bf16"
    base = Run(device=kind)
    kept = {name: given[name] for name in ("text", "save_every_s") if name in given}
    return replace(
        base,
        shape=override(base.shape, _of(base.shape, given)),
        how=replace(base.how, **{"precision": native} | _of(base.how, given)),
        **kept,
    )


def _of(part: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The options that are fields of a part of a run."""
    return {f.name: given[f.name] for f in fields(part) if f.name in given}


def _echo_end(out: Path) -> None:
    end = json.loads((out / "run.json").read_text(encoding="utf-8"))
    click.echo(
        "{parameters:,} parameters, {steps:,} steps, {tokens:,} tokens in "
        "{seconds:,.0f} s".format(**end)
    )
    click.echo(
        "held out: {bits_per_byte:.3f} bits per byte ({low:.3f} to {high:.3f}), "
        "perplexity {perplexity:.2f}".format(**end["held_out"])
    )
    click.echo(f"model: {out}")
