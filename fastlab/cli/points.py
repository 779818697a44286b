"""The group `fastlab`, options that name points, and tables in a terminal."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlab.spec import GRID_FIELDS, Point, grid
from fastlab.spec.grids import FLAT, about, trained_source
from fastlab.spec.unsupported import unsupported
from fastlab.words import one_line, printable

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.clock.measure import Bench
    from fastlab.latency.devices import Device

# Raised with a message for users, in modules too heavy to import here.
WORDED = ("StoreBusy", "StoreGone", "DeviceLost", "WorkerFailed", "NotebookFailed")


class Commands(click.Group):
    """Turns what users can get wrong into one line on stderr and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = printable(error.message)  # type: ignore[misc]
            raise
        except (ValueError, OSError, FloatingPointError) as error:
            raise click.UsageError(one_line(str(error))) from error
        except RuntimeError as error:
            if type(error).__name__ in WORDED:
                raise click.ClickException(str(error)) from error
            raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastlab-notebooks")
def main() -> None:
    """Predict what a transformer costs, measure it, and compare."""


NUMBERS = {"int": (int, "a whole number"), "float": (float, "a number")}
DEVICE_HELP = "auto, cuda or cpu: a device of this machine"
device_option = click.option(
    "--device", default="auto", show_default=True, help=DEVICE_HELP
)
students_option = click.option(
    "--students",
    help="distilled models are kept, and found, here [results/students]",
)


def point_options(
    command: Callable[..., Any], names: Sequence[str] = GRID_FIELDS
) -> Callable[..., Any]:
    """One option for each field of a point; commas separate several values."""
    for name in reversed(names):
        flag = "--" + name.replace("_", "-")
        words = about(name)
        command = click.option(flag, name, metavar="A[,B...]", help=words)(command)
    return command


def bench_of(
    device: str, source: str, text: Sequence[str], students: str | None, settings: Any
) -> Bench:
    """The bench of a device, settings over its defaults, with trained weights.

    source: the model whose trained weights are asked for, "" for none. The text that
    judges them is read at once, so that a missing one is refused before any work.
    """
    from fastlab import machine
    from fastlab.clock.measure import Bench
    from fastlab.clock.timing import Settings
    from fastlab.shrink.trained import Trained
    from fastlab.tensors import check_tensors

    kind = machine.torch_device(device)
    timing = Settings.for_device(kind, **settings)
    for name, value, why in (("text", text, "judges"), ("students", students, "is of")):
        if value and not source:
            first = value if isinstance(value, str) else value[0]
            raise ValueError(
                f"{name}={first!r} {why} trained weights, and none are asked for: give "
                "weights=trained too"
            )
    students = students or "results/students"
    bar = StepBar(name="distil")
    trained = Trained(source, tuple(text), students, bar.update) if source else None
    if trained:
        check_tensors(trained.folder)
        _ = trained.corpus if text else None
    return Bench.for_device(kind, timing, trained=trained)


def source_of(options: dict[str, str | None]) -> str:
    """The model whose trained weights the options ask for, or ""."""
    named = {n: options.get(n) for n in ("model", "weights")}
    return trained_source({n: _values(n, v) for n, v in named.items() if v})


def points_from(
    options: dict[str, str | None], profile: Device | None = None
) -> list[Point]:
    """The grid of the options that were given, as far as the device can run it."""
    given = {n: _values(n, v) for n, v in options.items() if v is not None}
    if not given:
        raise click.UsageError("name a model: --model gpt2, or --layers and --hidden")
    if "model" not in given:
        missing = [f"--{name}" for name in ("layers", "hidden") if name not in given]
        if missing:
            raise click.UsageError(f"give {' and '.join(missing)} too, or a --model")
    left_out: list[str] = []
    points = grid(left_out, **given)
    whys = {p: unsupported(p, profile) for p in points} if profile else {}
    if whys and not all(whys.values()):
        left_out += [f"{point.label}: {why}" for point, why in whys.items() if why]
        points = [point for point in points if not whys[point]]
    echo_left_out(left_out)
    return points


def echo_left_out(reasons: Sequence[str]) -> None:
    """Say which rows cannot be, beside those that can."""
    for reason in reasons:
        say(f"left out: {reason}", err=True)


def _values(name: str, text: str) -> list[Any]:
    if name == "model" and Path(text).exists():
        return [text]  # a comma may be part of a folder's name
    kind = str(FLAT[name][1].type) if name in FLAT else "str"
    return [_value(name, kind, part.strip()) for part in text.split(",")]


def _value(name: str, kind: str, text: str) -> Any:
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    read, words = NUMBERS.get(kind, (str, ""))
    if read is not str and re.match(r"[-+]?0\d", text):
        why = "no zeros before it; commas separate values, as in 128,1024"
        raise ValueError(f"{name}={text!r} must be {words}, {why}")
    try:
        return read(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} must be {words}") from None


def profile_of(name: str, engine: str = "") -> Device:
    """A datasheet device by name, or "here": this machine's, calibrated.

    engine: a serving engine whose cost a step is added to a datasheet device's.
    """
    from fastlab.latency.devices import device

    if name == "here":
        from fastlab.clock.calibrate import this_device  # and torch, with its seconds

        if engine:
            raise ValueError(f"engine={engine!r} needs a GPU by name: --on h100")
        return this_device()
    if "," in name:
        raise ValueError(f"on={name!r} must be one device; run once for each")
    try:
        return device(name, engine)
    except ValueError as error:
        if str(error).startswith("engine="):
            raise
        raise ValueError(f"on={name!r}: {error}, and here is this machine") from None


def say(text: str, err: bool = False) -> None:
    """A line for a terminal, whatever stands in it."""
    click.echo(printable(text), err=err)


def stopped(why: str) -> None:
    """Say that a command ended early, and which one goes on."""
    again = shlex.join(["fastlab", *sys.argv[1:]])
    say(f"\nstopped; {why}. Go on: {again}", err=True)


def echo_table(rows: pd.DataFrame, title: str = "") -> None:
    """A table in the terminal, its numbers written as everywhere else."""
    from fastlab.reading import texts

    if title:
        click.secho(f"\n{title}", bold=True)
    click.echo(printable(texts(rows, blank="-").to_string(index=False)))


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that fit a terminal; some only where they tell rows apart.

    A table of another making keeps those that it has.
    """
    from fastlab.reading import tells_apart

    shape = ("family", "layers", "hidden", "precision")
    call = ("phase", "batch", "prompt_len")
    first = ["device", *shape, *call]
    apart = [n for n in tells_apart(rows, first) if n != "weights"]
    times = ("estimated_ms", "measured_ms", "ratio", "tokens_per_s", "n", "flags")
    lost = [n for n in ("kl_nats", "bits_per_byte") if n in rows]
    lost = [name for name in lost if rows[name].notna().any()]
    why = ["reason"] if rows["reason"].astype(bool).any() else []
    busy = ["rates"] if "rates" in rows and rows["rates"].notna().any() else []
    host = ["host"] if "host" in rows and rows["host"].nunique() > 1 else []
    names = ["rung", *shape, *apart, *call, *times, *busy, *host, "status", *lost, *why]
    return rows[[name for name in dict.fromkeys(names) if name in rows]]


class StepBar:
    """A tqdm bar with the loss, from whatever step the run is at."""

    def __init__(self, steps: int | None = None, name: str = "") -> None:
        self.steps, self.name = steps, name
        self.bar: Any = None

    def update(self, row: dict[str, float]) -> None:
        """Show {step, loss}; one step less than before begins a new bar."""
        from tqdm import tqdm

        if self.bar is None or row["step"] < self.bar.n:
            self.close()
            name = self.name or None
            self.bar = tqdm(total=self.steps, unit="step", desc=name, disable=None)
        self.bar.n = int(row["step"])
        self.bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
        self.bar.update(0)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()
