"""The command `fastlab`: predict, measure, sweep, run a notebook, generate text."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlab.spec import GRID_FIELDS, Point, grid
from fastlab.spec.grids import OWNERS

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.cost.devices import Device
    from fastlab.sweeps.store import Store

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


class Commands(click.Group):
    """Turns what users can get wrong into one line on stderr and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            raise click.UsageError(str(error)) from error
        except RuntimeError as error:
            if type(error).__name__ in ("StoreBusy", "DeviceLost"):
                raise click.ClickException(str(error)) from error
            raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastlab-notebooks")
def main() -> None:
    """Predict what a transformer costs, measure it, and compare."""


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


@main.command()
@point_options
@click.option("--on", default="here", show_default=True, help="here, or a GPU: h200")
@click.option("--operations", is_flag=True, help="one row per operation")
def predict(on: str, operations: bool, **options: str | None) -> None:
    """What points should cost: FLOPs, bytes, memory, time; nothing is run."""
    points = points_from(options)
    profile = profile_of(on)
    click.echo(f"{profile.name} ({profile.profile})")
    for point in points:
        if operations:
            _echo_table(_operations_table(point), point.label)
    if not operations:
        _echo_table(_estimate_table(points, profile))


def _estimate_table(points: list[Point], profile: Device) -> pd.DataFrame:
    import pandas as pd

    from fastlab.cost.latency import estimate
    from fastlab.cost.memory import largest_batch

    rows = []
    for point, e in zip(points, estimate(points, profile), strict=True):
        row: dict[str, Any] = {
            "point": point.label,
            "parameters": f"{e.parameters / 1e6:,.1f} M",
        }
        row |= {"GFLOPs": f"{e.flops / 1e9:,.2f}", "launches": e.launches}
        row |= {"KV cache": _size(e.kv_cache_bytes), "peak": _size(e.peak_bytes)}
        row |= {"fits to batch": largest_batch(point, profile.memory_bytes)}
        row |= {"ms": f"{e.seconds * 1e3:.3g}", "bound": e.bound}
        row |= {"from - to": f"{e.low_s * 1e3:.3g} - {e.high_s * 1e3:.3g}"}
        rows.append(row)
    return pd.DataFrame(rows)


def _operations_table(point: Point) -> pd.DataFrame:
    import pandas as pd

    from fastlab.cost.operations import operations

    rows = [
        {
            "operation": op.name,
            "times": op.times,
            "MFLOPs": f"{op.times * op.flops / 1e6:,.2f}",
            "weights": _size(op.times * op.weight_bytes),
            "activations": _size(op.times * op.activation_bytes),
            "KV read": _size(op.times * op.kv_read_bytes),
            "KV written": _size(op.times * op.kv_write_bytes),
            "launches": op.times * op.launches,
        }
        for op in operations(point)
    ]
    return pd.DataFrame(rows)


def _size(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.2f} GiB"


def _echo_table(rows: pd.DataFrame, title: str = "") -> None:
    if title:
        click.secho(f"\n{title}", bold=True)
    click.echo(rows.to_string(index=False))


SHOWN = (
    *("family", "layers", "hidden", "precision", "phase", "batch", "prompt_len"),
    *("estimated_ms", "measured_ms", "ratio", "tokens_per_s", "n", "flags", "status"),
)


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that fit a terminal; reasons only where there is one."""
    names = [*SHOWN, "reason"] if rows["reason"].astype(bool).any() else list(SHOWN)
    short = {"estimated_ms": 3, "measured_ms": 3, "ratio": 2, "tokens_per_s": 0}
    return rows[names].round(short).fillna("-")


@main.command()
@point_options
@click.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
@click.option("--store", "folder", type=click.Path(), help="keep the rows here")
@click.option("--budget-s", type=float, help="seconds of sampling per point")
@click.option("--target", type=float, help="wanted interval, 0.01 = 1 %")
@click.option("--json", "as_json", is_flag=True, help="records as JSON lines")
def measure(
    device: str,
    folder: str | None,
    budget_s: float | None,
    target: float | None,
    as_json: bool,
    **options: str | None,
) -> None:
    """Estimate and time points on this machine."""
    from fastlab import machine
    from fastlab.clock.timing import Settings

    points = points_from(options)
    wanted = {"budget_s": budget_s, "target": target}
    given = {n: v for n, v in wanted.items() if v is not None}
    settings = Settings.for_device(machine.torch_device(device), **given)
    records = _measured(points, folder, settings, device)
    if as_json:
        for record in records:
            click.echo(json.dumps(record.to_dict(), sort_keys=True))
    else:
        from fastlab.sweeps.table import table

        _echo_table(_shown(table(records)))


def _measured(
    points: list[Point], folder: str | None, settings: Any, device: str
) -> list[Any]:
    """Records of the points; in a store only the missing ones are measured."""
    from fastlab.clock.measure import Bench
    from fastlab.sweeps.run import measured, rows_of, terminal_progress
    from fastlab.sweeps.store import Store

    bench = Bench.here(device, settings)
    if folder is None:
        return [bench.measure(point) for point in terminal_progress(points)]
    store = Store(folder)
    list(measured(points, store, bench, terminal_progress))
    return rows_of(points, store, bench)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--store", "folder", type=click.Path(), required=True)
@click.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
@click.option("--dry-run", is_flag=True, help="say what is left to do, and stop")
def sweep(file: str, folder: str, device: str, dry_run: bool) -> None:
    """Measure all points of a sweep FILE that the store does not have yet.

    The same command after an interruption goes on where it stopped.
    """
    from fastlab import machine
    from fastlab.clock.measure import Bench
    from fastlab.clock.timing import Settings
    from fastlab.sweeps.files import read_sweep
    from fastlab.sweeps.run import plan
    from fastlab.sweeps.store import Store

    wanted, store = read_sweep(file), Store(folder)
    kind = machine.torch_device(device)
    bench = Bench.here(kind, Settings.for_device(kind, **wanted.settings))
    done = store.done(bench.name, bench.settings.to_dict())
    left = plan(wanted.points, done, bench)
    here = f"{len(wanted.points) - len(left)} of {len(wanted.points)} points"
    click.echo(f"{wanted.about}\n{bench.name}: {here} are in {folder}", err=True)
    if not dry_run:
        _run_sweep(wanted.points, store, bench)


def _run_sweep(points: list[Point], store: Store, bench: Any) -> None:
    from fastlab.sweeps.run import measured, rows_of, tally, terminal_progress
    from fastlab.sweeps.table import table

    try:
        fresh = list(measured(points, store, bench, terminal_progress))
    except KeyboardInterrupt:
        again = " ".join(["fastlab", *sys.argv[1:]])
        click.echo(f"\nstopped; every finished row is kept. Go on: {again}", err=True)
        sys.exit(130)
    rows = rows_of(points, store, bench)
    path = store.folder / "table.csv"
    table(rows).to_csv(path, index=False)
    _write_run(store)
    click.echo(f"measured now: {tally(fresh)}; in all: {tally(rows)}; table: {path}")
    if any(record.status == "error" for record in rows):
        sys.exit(1)


def _write_run(store: Store) -> None:
    """run.json beside the rows: each environment that wrote to this store."""
    path = store.folder / "run.json"
    path.write_text(json.dumps({"environments": store.envs()}, indent=1) + "\n")


@main.command()
@click.argument("notebook", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "-p", "--parameter", "pairs", nargs=2, multiple=True, metavar="NAME VALUE"
)
def run(notebook: str, pairs: tuple[tuple[str, str], ...]) -> None:
    """Run a NOTEBOOK with parameters that are checked first; keep its results."""
    from fastlab.view.batch import run_notebook

    result = run_notebook(Path(notebook), dict(pairs))
    for name, path in result.items():
        click.echo(f"{name + ':':<10} {path}")


@main.command()
@click.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
@click.option("--refresh", is_flag=True, help="measure again")
def calibrate(device: str, refresh: bool) -> None:
    """Measure this machine's rates once (some seconds); estimates use them."""
    from fastlab.clock.calibrate import profile_path, this_device

    profile = this_device(device, refresh)
    click.echo(json.dumps(profile.to_dict(), indent=1))
    click.echo(f"kept in {profile_path(profile.kind)}", err=True)


@main.command()
def devices() -> None:
    """The datasheet devices that --on knows."""
    import pandas as pd

    from fastlab.cost.devices import devices as known

    rows = [
        {"name": d.name, "on": d.profile.removeprefix("datasheet:")}
        | {f"{p} TFLOP/s": f"{v / 1e12:,.4g}" for p, v in d.peak_flops.items()}
        | {"GB/s": f"{d.bandwidth / 1e9:,.0f}", "GiB": f"{d.memory_bytes / 2**30:.0f}"}
        for d in known()
    ]
    _echo_table(pd.DataFrame(rows).fillna("-"))


@main.command()
@click.argument("prompt")
@click.option("--model", required=True, help="hub name or local folder")
@click.option("--new-tokens", default=32, show_default=True)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
def generate(
    prompt: str, model: str, new_tokens: int, precision: str, device: str
) -> None:
    """Continue PROMPT with a real model: text in, text out."""
    from fastlab import machine
    from fastlab.models import generate_text, load
    from fastlab.spec.checks import check_choice
    from fastlab.spec.point import PRECISIONS

    check_choice("precision", precision, PRECISIONS)
    loaded, tokenizer = load(model, machine.torch_device(device), precision)
    click.echo(prompt + generate_text(loaded, tokenizer, prompt, new_tokens))


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--csv", "csv", type=click.Path(), help="write all columns here")
def table(folder: str, csv: str | None) -> None:
    """The rows of a store, and the lines of it that could not be read."""
    from fastlab.sweeps.store import Store
    from fastlab.sweeps.table import table as tabulate

    store = Store(folder)
    rows, health = tabulate(store.records(samples=False)), store.health()
    if csv:
        rows.to_csv(csv, index=False)
    _echo_table(_shown(rows))
    for bad in health.bad:
        click.echo(f"skipped {bad.file} line {bad.line}: {bad.why}", err=True)
    for name in health.torn:
        click.echo(f"torn tail kept aside: {name}", err=True)
