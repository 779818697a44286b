"""fastlab predict and fastlab devices: what points should cost; nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fastlab.cli.points import echo_table, main, point_options, points_from, profile_of
from fastlab.spec import Point
from fastlab.words import digits, percent, si

if TYPE_CHECKING:
    import pandas as pd

    from fastlab.latency.devices import Device
    from fastlab.latency.whatif import Move, Offer

CAUSAL = "causal MFLOPs"
SHOWN_UNFIT = 5  # points without room that are listed one by one
COUNTS = {  # of an operation: column -> field
    **{"MFLOPs": "flops", CAUSAL: "flops_causal", "weights": "weight_bytes"},
    **{"activations": "activation_bytes", "KV read": "kv_read_bytes"},
    **{"KV written": "kv_write_bytes", "launches": "launches"},
}
OFFERED = {  # of an offer: field -> column
    **{"device": "device", "ttft_s": "TTFT ms", "tpot_s": "TPOT ms"},
    **{"seconds": "request s", "band": "from - to", "bound": "bound"},
    **{"cost": "USD / 1,000", "largest_batch": "fits to batch", "basis": "by"},
    "refused": "why not",
}
MINE = "own measured rows that move the priors: a table's CSV, or JSON lines"
ENGINE = click.option("--engine", default="", help="with what a server adds: vllm")


@main.command()
@point_options
@click.option("--on", default="here", show_default=True, help="here, or a GPU: h200")
@ENGINE
@click.option("--datasheet", is_flag=True, help="its roofline alone, with no prior")
@click.option(
    "--operations",
    is_flag=True,
    help="one row per operation: its time here, what bounds it, what it moves",
)
def predict(
    on: str, engine: str, datasheet: bool, operations: bool, **options: str | None
) -> None:
    """What points should cost: FLOPs, bytes, memory, time; nothing is run.

    A model, or --layers and --hidden, and any of the options below: several values,
    separated by commas, give a row for each combination.
    """
    from fastlab.latency.prior import as_served

    if datasheet and (on == "here" or engine):
        raise ValueError("--datasheet needs --on GPU, and no --engine")
    profile = profile_of(on, engine)
    profile = profile.sheet if datasheet else profile
    points = points_from(options, profile)
    if engine and not (options["runtime"] or options["cache"]):
        points = [as_served(point) for point in points]
    click.echo(f"{profile.name} ({profile.profile})")
    if operations:
        tables = [_operations_table(point, profile) for point in points]
        for point, rows in zip(points, tables, strict=True):
            echo_table(rows, point.label)
        if any(CAUSAL in rows for rows in tables):
            why = "without the masked pairs of attention; so it is timed"
            click.echo(f"\n{CAUSAL}: {why}")
    else:
        echo_table(_estimate_table(points, profile))
    _echo_traced(points)
    _echo_unfit(points, profile)
    echo_trust(profile, points)


def _echo_traced(points: list[Point]) -> None:
    """What is said of models whose operations were found by watching them."""
    from fastlab.spec.kept import notes_of

    shapes = dict.fromkeys(point.built_shape for point in points)
    for shape, note in [(s, note) for s in shapes for note in notes_of(s)]:
        click.echo(f"{shape.family} {shape.layers}x{shape.hidden}: {note}")


def _echo_unfit(points: list[Point], profile: Device) -> None:
    """The points that do not fit, whose estimated time is of no use."""
    from fastlab.cost.memory import RESERVE, peak_bytes

    room = profile.memory_bytes
    needs = [(point.label, peak_bytes(point)) for point in points]
    unfit = [(label, need) for label, need in needs if need > room * (1 - RESERVE)]
    for label, need in unfit[:SHOWN_UNFIT]:
        click.echo(f"does not fit: {label} needs {si(need, 'B')} of {si(room, 'B')}")
    if len(unfit) > SHOWN_UNFIT:
        click.echo(f"nor do {len(unfit) - SHOWN_UNFIT} more of these points")
    if any(need <= room for _, need in unfit):
        click.echo(f"({RESERVE:.0%} of the memory is left to the driver)")


def echo_trust(profile: Device, points: Sequence[Point] = ()) -> None:
    """What an estimate is made from, where that is less than a quiet calibration."""
    from fastlab.latency.prior import timed
    from fastlab.latency.whatif import LABEL

    if profile.fits is None:
        click.echo(f"{LABEL}: at all that the datasheet promises, with no prior")
    elif not profile.calibrated:
        its = (
            "its own among them"
            if timed(profile.name)
            else "none of them its own, so a wider band"
        )
        of = f"by a prior of public timings of GPUs, {its}"
        click.echo(f"{LABEL}: {of}; `fastlab score --published` says how far off")
        for precision in dict.fromkeys(point.recipe.precision for point in points):
            fit = profile.fits.find("linear", precision)
            if fit and not fit.count:
                why = "no public timing was found, so it is borrowed, give or take"
                click.echo(f"products in {precision}: {why} a factor of 2")
    if profile.trust:
        click.echo(f"{profile.trust}; `fastlab doctor` says what to do")


def _estimate_table(points: list[Point], profile: Device) -> pd.DataFrame:
    import pandas as pd

    from fastlab.cost.memory import largest_batch
    from fastlab.latency.estimates import estimate

    rows = [
        {
            "point": point.label,
            "parameters": f"{e.parameters / 1e6:,.1f} M",
            "GFLOPs": f"{e.flops / 1e9:,.2f}",
            "launches": e.launches,
            "KV cache": si(e.kv_cache_bytes, "B"),
            "peak": si(e.peak_bytes, "B"),
            "fits to batch": largest_batch(point, profile.memory_bytes),
            "ms": digits(e.seconds * 1e3),
            "bound": e.bound,
            "from - to": f"{digits(e.low_s * 1e3)} - {digits(e.high_s * 1e3)}",
        }
        for point, e in zip(points, estimate(points, profile), strict=True)
    ]
    return pd.DataFrame(rows)


def _operations_table(point: Point, device: Device) -> pd.DataFrame:
    """Times and counts of each operation, then of the host, then of all together."""
    import pandas as pd

    from fastlab.cost.operations import operations
    from fastlab.latency.explain import breakdown

    shares, ops = breakdown(point, device), operations(point)
    seconds = [share.seconds for share in shares]
    seconds.append(sum(seconds))
    counts = [[op.times * getattr(op, n) for n in COUNTS.values()] for op in ops]
    table = pd.DataFrame(counts, columns=[*COUNTS])
    table.loc[len(shares)] = table.sum()
    table = table.apply(lambda column: column.map(_writer(str(column.name))))
    table = table.reindex(range(len(seconds)))  # the host has no counts
    table.insert(0, "operation", [*(share.name for share in shares), "sum"])
    table.insert(1, "ms", [digits(t * 1e3) for t in seconds])
    table.insert(2, "share", [percent(t / seconds[-1]) for t in seconds])
    table.insert(3, "bound", [*(share.bound for share in shares), ""])
    table.insert(4, "times", pd.Series([str(op.times) for op in ops]))
    if table[CAUSAL].equals(table["MFLOPs"]):
        del table[CAUSAL]
    return table.fillna("")


def _writer(name: str) -> Callable[[float], str]:
    if name == "launches":
        return "{:.0f}".format
    return lambda n: f"{n / 1e6:,.2f}" if "FLOPs" in name else si(n, "B")


@main.command()
@click.option("--model", help="which device for this model? preset, hub name, folder")
@click.option("--prompt-len", default=512, show_default=True)
@click.option("--new-tokens", default=128, show_default=True)
@click.option("--batch", default=1, show_default=True, help="sequences at a time")
@click.option("--precision", help="[bf16, or what the folder holds]")
@ENGINE
@click.option("--mine", metavar="FILE", help=MINE)
@click.pass_context
def devices(
    ctx: click.Context,
    model: str | None,
    precision: str | None,
    engine: str,
    mine: str | None,
    **sizes: int,
) -> None:
    """The datasheet devices; with --model, what a request takes and costs on each."""
    from fastlab.latency.devices import device
    from fastlab.latency.devices import devices as known
    from fastlab.latency.whatif import UNMOVED, Request, offers
    from fastlab.spec import point_of
    from fastlab.spec.manifest import held_recipe

    if model is None:
        _check_no_request(ctx)
        echo_table(_datasheets(known()))
        return
    usual = None if held_recipe(model) else "bf16"
    named = {"precision": precision or usual} if precision or usual else {}
    point = point_of(model=model, prompt_len=1, **named)
    shape, recipe = point.shape, point.recipe
    if shape.family == "bert":
        raise ValueError(
            f"model={model!r} writes no text, and a request is a text to write: "
            "`fastlab predict` estimates its one pass"
        )
    request = Request(shape, recipe=recipe, **sizes)
    request.point("generate")  # refused here, before any device is looked at
    every = [device(one.name, engine) if one.fits else one for one in known()]
    moved = _moved(mine, engine) if mine else UNMOVED
    found = offers(request, every, moved)
    echo_table(_offers_table(found))
    _echo_basis(found, [one.name for one in every if one.kind == "fpga"])


def _moved(mine: str, engine: str) -> dict[str, Move]:
    """What own rows move; said at once."""
    from fastlab.latency.devices import device
    from fastlab.latency.whatif import moves
    from fastlab.literature import measured_in
    from fastlab.words import times

    rows = measured_in(mine)
    on = {name: device(name, engine) for name in {name for *_, name in rows}}
    moved = moves([(point, seconds, on[name]) for point, seconds, name in rows])
    each = [f"{p} by {times(m.factor)} ({m.n} rows)" for p, m in moved.items() if m.n]
    click.echo(f"your {len(rows)} rows moved {', '.join(each)}")
    return moved


def _check_no_request(ctx: click.Context) -> None:
    """Without a model there is no request: refuse options that describe one."""
    for name, value in ctx.params.items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(
                f"{flag} {value} is of a request to a model: name one with --model"
            )


def _datasheets(known: list[Device]) -> pd.DataFrame:
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {"name": d.name, "on": d.profile.split(":")[1]}
        | {f"{p} TFLOP/s": v / 1e12 for p, v in d.peak_flops.items()}
        | {"bandwidth": si(d.bandwidth, "B/s"), "memory": si(d.memory_bytes, "B")}
        | {"USD/h": d.price_per_hour}
        for d in known
    ]
    return pd.DataFrame(rows)


def _offers_table(found: list[Offer]) -> pd.DataFrame:
    import pandas as pd

    rows = pd.DataFrame(map(asdict, found))
    ends = rows[["low_s", "high_s"]].astype(float).to_numpy()
    rows["band"] = ["" if a != a else f"{digits(a)} - {digits(b)}" for a, b in ends]
    rows[["ttft_s", "tpot_s"]] *= 1e3
    rows = rows.replace({"largest_batch": {0: None}})
    return rows[[*OFFERED]].rename(columns=OFFERED)


def _echo_basis(found: list[Offer], fpgas: list[str]) -> None:
    """What the times are from; of FPGAs all that is known, which others published."""
    from fastlab.latency.whatif import LABEL, SHEET
    from fastlab.literature import published

    said = f"{SHEET}: typical shares, {LABEL}; how far off that is, nobody knows"
    bases = {
        "prior": "prior: what public timings of other GPUs say, from - to",
        SHEET: said,
    }
    for basis in dict.fromkeys(offer.basis for offer in found if offer.basis):
        click.echo(bases[basis])
    rows = published()
    for row in rows[rows["device"].isin(fpgas)].itertuples():
        call = f"{row.model} {row.precision} {row.phase}, {digits(row.measured_ms)} ms"
        click.echo(f"{row.device}, published: {call} ({row.source}); no more is known")
