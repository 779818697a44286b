"""fastlab predict and fastlab devices: what points should cost; nothing is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fastlab.cli.group import main
from fastlab.cli.points import echo_table, point_options, points_from, profile_of
from fastlab.spec import Point
from fastlab.words import digits, percent, si

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.cost.ops import Operation
    from fastlab.latency.devices import Device
    from fastlab.latency.whatif import Offer

CAUSAL = "causal MFLOPs"
SHOWN_UNFIT = 5  # points without room that are listed one by one


@main.command()
@point_options
@click.option("--on", default="here", show_default=True, help="here, or a GPU: h200")
@click.option(
    "--operations",
    is_flag=True,
    help="one row per operation: its time here, what bounds it, what it moves",
)
def predict(on: str, operations: bool, **options: str | None) -> None:
    """What points should cost: FLOPs, bytes, memory, time; nothing is run.

    A model, or --layers and --hidden, and any of the options below: several values,
    separated by commas, give a row for each combination.
    """
    points = points_from(options)
    profile = profile_of(on)
    click.echo(f"{profile.name} ({profile.profile})")
    if operations:
        _echo_operations(points, profile)
    else:
        echo_table(_estimate_table(points, profile))
    _echo_unfit(points, profile)
    _echo_trust(profile)


def _echo_operations(points: list[Point], profile: Device) -> None:
    tables = [_operations_table(point, profile) for point in points]
    for point, rows in zip(points, tables, strict=True):
        echo_table(rows, point.label)
    if any(CAUSAL in rows for rows in tables):
        click.echo(f"\n{CAUSAL}: without the masked pairs of attention; so it is timed")


def _echo_unfit(points: list[Point], profile: Device) -> None:
    """The points that do not fit, whose estimated time is of no use."""
    from fastlab.cost.memory import RESERVE, peak_bytes

    room = profile.memory_bytes
    needs = [(point.label, peak_bytes(point)) for point in points]
    unfit = [(label, need) for label, need in needs if need > room * (1 - RESERVE)]
    for label, need in unfit[:SHOWN_UNFIT]:
        of = f"{si(need, 'B')} of {si(room, 'B')}"
        click.echo(f"does not fit: {label} needs {of}")
    if len(unfit) > SHOWN_UNFIT:
        click.echo(f"nor do {len(unfit) - SHOWN_UNFIT} more of these points")
    if any(need <= room for _, need in unfit):
        click.echo(f"({RESERVE:.0%} of the memory is left to the driver)")


def _echo_trust(profile: Device) -> None:
    """What an estimate is made from, where that is less than a quiet calibration."""
    from fastlab.clock.calibrate import BUSY, is_busy
    from fastlab.latency.whatif import LABEL, TYPICAL

    if not profile.calibrated:
        compute, memory = TYPICAL
        usual = f"`fastlab devices` takes {compute} of peak, {memory} of bandwidth"
        click.echo(f"{LABEL}: at all that the datasheet promises; {usual}")
    if is_busy(profile):
        click.echo(f"calibrated {BUSY}: do not trust it (see `fastlab doctor`)")


def _estimate_table(points: list[Point], profile: Device) -> pd.DataFrame:
    import pandas as pd

    from fastlab.cost.memory import largest_batch
    from fastlab.latency.estimates import estimate

    rows = []
    for point, e in zip(points, estimate(points, profile), strict=True):
        row: dict[str, Any] = {
            "point": point.label,
            "parameters": f"{e.parameters / 1e6:,.1f} M",
        }
        row |= {"GFLOPs": f"{e.flops / 1e9:,.2f}", "launches": e.launches}
        row |= {"KV cache": si(e.kv_cache_bytes, "B"), "peak": si(e.peak_bytes, "B")}
        row |= {"fits to batch": largest_batch(point, profile.memory_bytes)}
        row |= {"ms": digits(e.seconds * 1e3), "bound": e.bound}
        row |= {"from - to": f"{digits(e.low_s * 1e3)} - {digits(e.high_s * 1e3)}"}
        rows.append(row)
    return pd.DataFrame(rows)


def _operations_table(point: Point, device: Device) -> pd.DataFrame:
    """Times and counts of each operation, then of the host, then of all together."""
    import pandas as pd

    from fastlab.cost.operations import operations
    from fastlab.latency.explain import breakdown

    shares = breakdown(point, device)
    total = sum(share.seconds for share in shares)
    made = list(operations(point))
    causal = any(op.flops_causal != op.flops for op in made)
    ops = [_counts(op, causal) for op in made]
    rows: list[dict[str, float]] = [*ops, {}]
    summed = {name: sum(op[name] for op in ops) for name in ops[0] if name != "times"}
    table = pd.DataFrame([_worded(row) for row in [*rows, summed]])
    table.insert(0, "operation", [*(share.name for share in shares), "sum"])
    seconds = [*(share.seconds for share in shares), total]
    table.insert(1, "ms", [digits(t * 1e3) for t in seconds])
    table.insert(2, "share", [percent(t / total) for t in seconds])
    table.insert(3, "bound", [*(share.bound for share in shares), ""])
    return table.fillna("")


def _counts(op: Operation, causal: bool) -> dict[str, float]:
    found = {"times": 1, "MFLOPs": op.flops / 1e6}
    found |= {CAUSAL: op.flops_causal / 1e6} if causal else {}
    found |= {
        "weights": op.weight_bytes,
        "activations": op.activation_bytes,
        "KV read": op.kv_read_bytes,
    }
    found |= {"KV written": op.kv_write_bytes, "launches": op.launches}
    return {name: op.times * value for name, value in found.items()}


def _worded(row: dict[str, float]) -> dict[str, str]:
    words = {"times": "{:.0f}", "launches": "{:.0f}"}
    words |= dict.fromkeys(("MFLOPs", CAUSAL), "{:,.2f}")
    return {
        name: words[name].format(value) if name in words else si(value, "B")
        for name, value in row.items()
    }


@main.command()
@click.option("--model", help="which device for this model? preset, hub name, folder")
@click.option("--prompt-len", default=512, show_default=True)
@click.option("--new-tokens", default=128, show_default=True)
@click.option("--batch", default=1, show_default=True, help="sequences at a time")
@click.option("--precision", default="bf16", show_default=True)
@click.pass_context
def devices(
    ctx: click.Context,
    model: str | None,
    prompt_len: int,
    new_tokens: int,
    batch: int,
    precision: str,
) -> None:
    """The datasheet devices; with --model, what a request takes and costs on each."""
    from fastlab.latency.devices import devices as known
    from fastlab.latency.whatif import LABEL, Request, offers
    from fastlab.spec import Recipe
    from fastlab.spec.shape import find_shape

    if model is None:
        _check_no_request(ctx)
        _echo_datasheets(known())
        return
    shape, recipe = find_shape(model), Recipe(precision)
    if shape.family == "bert":
        raise ValueError(
            f"model={model!r} writes no text, and a request is a text to write: "
            "`fastlab predict` estimates its one pass"
        )
    request = Request(shape, prompt_len, new_tokens, batch, recipe)
    request.point("generate")  # refused here, before any device is looked at
    echo_table(_offers_table(offers(request, known())))
    click.echo(f"{LABEL}: 0.7 of the datasheet's peak, 0.9 of its bandwidth, eager.")
    for line in _how_far_off():
        click.echo(line)


def _check_no_request(ctx: click.Context) -> None:
    """Without a model there is no request: refuse options that describe one."""
    for name, value in ctx.params.items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(
                f"{flag} {value} is of a request to a model: name one with --model"
            )


def _echo_datasheets(known: list[Device]) -> None:
    import pandas as pd

    rows = [
        {"name": d.name, "on": d.profile.removeprefix("datasheet:")}
        | {f"{p} TFLOP/s": f"{v / 1e12:,.4g}" for p, v in d.peak_flops.items()}
        | {"bandwidth": si(d.bandwidth, "B/s"), "memory": si(d.memory_bytes, "B")}
        | {"USD/h": f"{d.price_per_hour:.2f}" if d.price_per_hour else "-"}
        for d in known
    ]
    echo_table(pd.DataFrame(rows))


def _offers_table(found: list[Offer]) -> pd.DataFrame:
    import pandas as pd

    def shown(value: float | None, factor: float, digits: int) -> str:
        return "-" if value is None else f"{value * factor:,.{digits}f}"

    rows = [
        {
            "device": offer.device,
            "TTFT ms": shown(offer.ttft_s, 1e3, 1),
            "TPOT ms": shown(offer.tpot_s, 1e3, 2),
            "request s": shown(offer.seconds, 1, 2),
            "USD / 1,000": shown(offer.cost, 1, 3),
            "fits to batch": offer.largest_batch or "-",
            "why not": offer.refused,
        }
        for offer in found
    ]
    return pd.DataFrame(rows)


def _how_far_off() -> list[str]:
    """The error of such estimates on each device that was measured, in words."""
    from fastlab.scores.scoreboard import score
    from fastlab.sweeps.reference import references

    lines = []
    for reference in references():
        if reference.profile is not None and reference.records:
            board = score(reference.records, reference.profile, model="roofline")
            e = next(m for m in board.methods if m.name.startswith("efficiencies"))
            lines.append(
                f"Such estimates were off by {e.median:.0f} % (median), {e.p90:.0f} % "
                f"(p90) on {e.n} rows measured on {board.device}."
            )
    return lines or ["No measured device is at hand to say how far off that is."]
