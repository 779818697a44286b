"""fastlab predict and fastlab devices: what points should cost; nothing is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fastlab.cli.group import main
from fastlab.cli.points import echo_table, point_options, points_from, profile_of
from fastlab.spec import Point

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.cost.kinds import Operation
    from fastlab.latency.devices import Device
    from fastlab.latency.whatif import Offer


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
    for point in points:
        if operations:
            echo_table(_operations_table(point, profile), point.label)
    if not operations:
        echo_table(_estimate_table(points, profile))


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
        row |= {"KV cache": _size(e.kv_cache_bytes), "peak": _size(e.peak_bytes)}
        row |= {"fits to batch": largest_batch(point, profile.memory_bytes)}
        row |= {"ms": f"{e.seconds * 1e3:.3g}", "bound": e.bound}
        row |= {"from - to": f"{e.low_s * 1e3:.3g} - {e.high_s * 1e3:.3g}"}
        rows.append(row)
    return pd.DataFrame(rows)


def _operations_table(point: Point, device: Device) -> pd.DataFrame:
    """Times and counts of each operation, then of the host, then of all together."""
    import pandas as pd

    from fastlab.cost.operations import operations
    from fastlab.latency.breakdown import breakdown

    shares = breakdown(point, device)
    total = sum(share.seconds for share in shares)
    ops = [_counts(op) for op in operations(point)]
    rows: list[dict[str, float]] = [*ops, {}]
    summed = {name: sum(op[name] for op in ops) for name in ops[0] if name != "times"}
    table = pd.DataFrame([_worded(row) for row in [*rows, summed]])
    table.insert(0, "operation", [*(share.name for share in shares), "sum"])
    seconds = [*(share.seconds for share in shares), total]
    table.insert(1, "ms", [f"{t * 1e3:,.4g}" for t in seconds])
    table.insert(2, "%", [f"{100 * t / total:.1f}" for t in seconds])
    table.insert(3, "bound", [*(share.bound for share in shares), ""])
    return table.fillna("")


def _counts(op: Operation) -> dict[str, float]:
    found = {"times": 1, "MFLOPs": op.flops / 1e6, "weights": op.weight_bytes}
    found |= {"activations": op.activation_bytes, "KV read": op.kv_read_bytes}
    found |= {"KV written": op.kv_write_bytes, "launches": op.launches}
    return {name: op.times * value for name, value in found.items()}


def _worded(row: dict[str, float]) -> dict[str, str]:
    words = {"times": "{:.0f}", "launches": "{:.0f}", "MFLOPs": "{:,.2f}"}
    return {
        name: words[name].format(value) if name in words else _size(value)
        for name, value in row.items()
    }


def _size(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.2f} GiB"


@main.command()
@click.option("--model", help="which device for this model? preset, hub name, folder")
@click.option("--prompt-len", default=512, show_default=True)
@click.option("--new-tokens", default=128, show_default=True)
@click.option("--batch", default=1, show_default=True, help="sequences at a time")
@click.option("--precision", default="bf16", show_default=True)
def devices(
    model: str | None, prompt_len: int, new_tokens: int, batch: int, precision: str
) -> None:
    """The datasheet devices; with --model, what a request takes and costs on each."""
    from fastlab.latency.devices import devices as known
    from fastlab.latency.whatif import LABEL, Request, offers
    from fastlab.spec import Recipe
    from fastlab.spec.shape import find_shape

    if model is None:
        _echo_datasheets(known())
        return
    shape, recipe = find_shape(model), Recipe(precision)
    request = Request(shape, prompt_len, new_tokens, batch, recipe)
    request.point("generate")  # refused here, before any device is looked at
    echo_table(_offers_table(offers(request, known())))
    click.echo(f"{LABEL}: 0.7 of the datasheet's peak, 0.9 of its bandwidth, eager.")
    for line in _how_far_off():
        click.echo(line)


def _echo_datasheets(known: list[Device]) -> None:
    import pandas as pd

    rows = [
        {"name": d.name, "on": d.profile.removeprefix("datasheet:")}
        | {f"{p} TFLOP/s": f"{v / 1e12:,.4g}" for p, v in d.peak_flops.items()}
        | {"GB/s": f"{d.bandwidth / 1e9:,.0f}", "GiB": f"{d.memory_bytes / 2**30:.0f}"}
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
