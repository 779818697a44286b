"""Options that name points, and how tables look in a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fastlab.spec import GRID_FIELDS, Point, grid
from fastlab.spec.grids import OWNERS

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.cost.devices import Device

NUMBERS = {"int"}
HELP = {
    "model": "preset (gpt2, llama-3.1-8b, ...), hub name or folder",
    "family": "gpt2, llama, qwen3 or bert",
    "layers": "number of layers",
    "hidden": "width of the residual stream",
    "phase": "prefill, decode or generate",
    "precision": "fp32, tf32, fp16 or bf16",
    "prompt_len": "tokens in the prompt",
    "weights": "random:<seed>",
}
DEVICE_HELP = "auto, cuda or cpu: a device of this machine"


def point_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each field of a point; commas separate several values."""
    for name in reversed(GRID_FIELDS):
        flag = "--" + name.replace("_", "-")
        about = HELP.get(name, "")
        command = click.option(flag, name, metavar="A[,B...]", help=about)(command)
    return command


def points_from(options: dict[str, str | None]) -> list[Point]:
    """The grid of the options that were given."""
    given = {n: _values(n, v) for n, v in options.items() if v is not None}
    if not given:
        raise click.UsageError("name a model: --model gpt2, or --layers and --hidden")
    return grid(**given)


def _values(name: str, text: str) -> list[Any]:
    return [_value(name, part.strip()) for part in text.split(",")]


def _value(name: str, text: str) -> Any:
    kinds = {f.name: str(f.type) for c in set(OWNERS.values()) for f in _fields(c)}
    if kinds.get(name) == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    if kinds.get(name) in NUMBERS:
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{name}={text!r} must be a whole number") from None
    return text


def _fields(cls: type) -> Any:
    return dataclasses.fields(cls)


def profile_of(name: str) -> Device:
    """A datasheet device by name, or "here": this machine's, calibrated."""
    from fastlab.clock.calibrate import this_device
    from fastlab.cost.devices import device

    return this_device() if name == "here" else device(name)


def echo_table(rows: pd.DataFrame, title: str = "") -> None:
    if title:
        click.secho(f"\n{title}", bold=True)
    click.echo(rows.to_string(index=False, na_rep="-"))


SHOWN = (
    *("family", "layers", "hidden", "precision", "phase", "batch", "prompt_len"),
    *("estimated_ms", "measured_ms", "ratio", "tokens_per_s", "n", "flags", "status"),
)


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that fit a terminal; reasons only where there is one."""
    names = [*SHOWN, "reason"] if rows["reason"].astype(bool).any() else list(SHOWN)
    short = {"estimated_ms": 3, "measured_ms": 3, "ratio": 2, "tokens_per_s": 0}
    return rows[names].round(short)
