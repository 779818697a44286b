"""fastlab scenario: whether a model on a device answers its users in time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from fastlab.cli.points import echo_table, main, point_options, points_from, profile_of
from fastlab.cli.predict import ENGINE, echo_trust
from fastlab.spec import GRID_FIELDS, ModelShape, Workload
from fastlab.spec.grids import FLAT
from fastlab.spec.scenarios import Arrivals, Scenario, Targets, scenarios
from fastlab.spec.scenarios import scenario as find
from fastlab.words import digits, percent, times

if TYPE_CHECKING:
    from fastlab.serving.outcome import Served

OWN = [n for n in GRID_FIELDS if n not in FLAT or FLAT[n][0] is not Workload]
SHAPE = [n for n in OWN if n not in FLAT or FLAT[n][0] is ModelShape]


@main.command()
@click.argument("name", required=False)
@partial(point_options, names=OWN)
@click.option("--on", default="here", show_default=True, help="here, or a GPU: h200")
@ENGINE
@click.option("--slots", default=64, show_default=True, help="sequences at a time")
@click.option("--chunk", default=512, show_default=True, help="prompt tokens a step")
@click.option("--requests", default=500, show_default=True, help="for each of 5 seeds")
def scenario(
    name: str | None,
    on: str,
    engine: str,
    slots: int,
    chunk: int,
    requests: int,
    **options: str | None,
) -> None:
    """Whether a model's answers come in time: scenario NAME, or a YAML file of yours.

    Without NAME: the scenarios. Requests are served by estimates, nothing is run.
    """
    if name is None:
        import pandas as pd

        echo_table(pd.DataFrame(map(_line, scenarios().values())))
        return
    from fastlab.serving.outcome import simulate
    from fastlab.serving.steps import Server

    one, server = find(name), Server(slots, chunk)
    profile = profile_of(on, engine)
    shape = points_from({n: options[n] for n in SHAPE} | {"prompt_len": "1"})[0].shape
    phase = "prefill" if shape.kind == "encoder" else "generate"
    points = points_from(options | {"phase": phase, "prompt_len": "1"}, profile)
    said = []
    for point in points:
        try:
            lines = _verdict(simulate(one, point, profile, server, requests))
        except ValueError as error:  # one of several that has no room
            if len(points) == 1:
                raise
            lines = [f"cannot: {error}"]
        cut = one.clipped(point.built_shape)
        label = point.label.rpartition(f" {phase}")[0]
        said += ["", label, *(f"  {line}" for line in [*lines, cut] if line)]
    click.echo(f"{one.title}: {_arrivals(one.arrivals)}; {_targets(one.targets)}")
    click.echo(f"{profile.name} ({profile.profile}); {slots} slots, chunks of {chunk}")
    click.echo("\n".join(said) + "\n")
    echo_trust(profile)
    click.echo(f"floor: bits per byte up by {percent(one.floor)} at most; not judged")
    for part, source in one.sources.items():
        click.echo(f"{part}: {source}")


def _line(one: Scenario) -> dict[str, Any]:
    middle = {n: getattr(one, n).at(50) for n in ("prompt", "answer")}
    said = {"arrivals": _arrivals(one.arrivals), "targets": _targets(one.targets)}
    return {"name": one.name, **middle, **said, "floor": percent(one.floor)}


def _arrivals(arrivals: Arrivals) -> str:
    if arrivals.users:
        return f"{arrivals.users} at once"
    return f"{digits(arrivals.rate or 0)}/s, CV {arrivals.cv:g}"


def _targets(targets: Targets) -> str:
    each = [f"{_metric(n)} {digits(s * 1e3)} ms" for n, s in targets.seconds.items()]
    return f"{', '.join(each)} at p{targets.percentile:g}"


def _metric(name: str) -> str:
    return {"e2e_s": "all"}.get(name, name[:-2].upper())


def _verdict(found: Served) -> list[str]:
    """Met or missed, by how much, what bounds it, and the other percentiles."""
    targets, load = found.scenario.targets, found.load
    loaded = "" if load is None else f"load {digits(load)}; "
    if found.saturated:
        said = f"saturated: load {digits(load or 0)}, where queues only grow"
        return [f"missed; {said}; bound by {found.bound}"]
    lines = []
    for name, over in found.over.items():
        at, low, high = (1e3 * t for t in found.times[name][targets.percentile])
        word, by = ("met" if over <= 1 else "missed"), times(over)
        time = f"{_metric(name)} {digits(at)} ms ({digits(low)} - {digits(high)})"
        most = f"{digits(targets.seconds[name] * 1e3)} ms"
        lines.append(f"{word}: {time} at p{targets.percentile:g}, {by} of {most}")
    share, good = found.attainment, found.goodput
    ends = f"{percent(share.value)} ({percent(share.low)} - {percent(share.high)})"
    rate = f"goodput {digits(good.value)} requests/s"
    lines.append(f"{loaded}attainment {ends}, {rate}; bound by {found.bound}")
    for name, own in found.times.items():
        each = [f"p{q:g} {digits(own[q].value * 1e3)}" for q in sorted(own)]
        lines.append(f"{_metric(name)} ms: {', '.join(each)}")
    return lines
