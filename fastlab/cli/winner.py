"""fastlab pack and chat: a model as a recipe makes it, kept, and to talk with."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlab.cli import points as given
from fastlab.cli import run
from fastlab.cli.points import device_option, main, point_options, say, students_option
from fastlab.cli.stores import floor_option, folder_argument, store_of
from fastlab.words import printable

if TYPE_CHECKING:
    from fastlab.record import Record
    from fastlab.runtime.chat import Chat
    from fastlab.spec import Point


@main.command()
@point_options
@click.option("--to", required=True, type=click.Path(), help="a folder that is empty")
@click.option("--from", "store", type=folder_argument, help="a store, for its rows")
@click.option("--best", is_flag=True, help="of the store: the winner of its report")
@click.option("--key", default="", help="of the store: the row whose key begins so")
@floor_option
@device_option
@click.option("--text", multiple=True, help="text file, where a recipe learns or looks")
@students_option
def pack(
    to: str, store: str | None, best: bool, key: str, floor: float, **options: Any
) -> None:
    """Make a model as a recipe says and write it to a folder that loads as it is.

    The recipe: the options of `fastlab measure`, or a row of a store. The folder holds
    weights, config, tokenizer, and fastlab.json, which says what they are.
    """
    if (path := Path(to)).exists() and (path.is_file() or any(path.iterdir())):
        raise ValueError(f"--to {to} is not empty: name a folder that is, or none yet")
    told = {n: options.pop(n) for n in ("text", "students")}
    device, source = options.pop("device"), options["model"]
    named = [name for name, value in options.items() if value and name != "model"]
    if (best or key) and (not store or (best and key) or named):
        raise ValueError("--best or --key needs --from STORE, and no other recipe")
    records = [*store_of(store).each(samples=False)] if store else []
    envs = store_of(store).envs() if store else {}
    of: dict[str, Any] = {"students": "results/students"}
    if best or key:
        from fastlab.report.winner import learned_from

        row = _chosen(records, key, floor)
        point = row.point
        of |= learned_from(point, envs.get(row.env, {}))
    else:
        point, *others = given.points_from(options)
        if others:
            raise ValueError(f"{1 + len(others)} points, and a folder holds one model")
    rows = [
        row.to_dict() | {"environment": envs.get(row.env)}
        for row in records
        if row.point.model_key == point.model_key
    ]
    of |= {name: value for name, value in told.items() if value}
    _pack(point, path, rows, device, source, of)
    say(f"{to}: {point.label}, with {len(rows)} rows of it")


def _chosen(records: list[Record], key: str, floor: float) -> Record:
    """The row whose key begins so; without one, the winner's."""
    from fastlab.report.winner import judged, main_call, winner

    if key:
        found = {row.key: row for row in records if row.key.startswith(key)}
        if len(found) != 1:
            raise ValueError(f"key={key!r} begins the keys of {len(found)} rows, not 1")
        return next(iter(found.values()))
    best = winner(main_call(judged(records, {})), floor) if records else None
    if best is None:
        raise ValueError(f"no row of the store is known to lose at most {floor:g}")
    return records[int(str(best.name))]


def _pack(
    point: Point,
    path: Path,
    rows: list[Any],
    device: str,
    source: Any,
    of: dict[str, Any],
) -> None:
    from fastlab import __version__, machine
    from fastlab.checkpoints import tokenizer_of
    from fastlab.report.winner import MODEL, source_of
    from fastlab.shrink.recipes import build
    from fastlab.shrink.saved import save
    from fastlab.shrink.trained import Trained
    from fastlab.spec.unsupported import unsupported

    kind, trained = machine.torch_device(device), None
    if reason := unsupported(point, machine.Here(kind)):
        raise ValueError(reason)
    if point.seed is None:
        if (source := source or source_of(point)) == MODEL:
            raise ValueError(f"weights={point.weights!r}: say where they are, --model")
        trained = Trained(source, **of)
    tokenizer = tokenizer_of(trained.folder) if trained else None
    about = {"fastlab": __version__, "point": point.to_dict(), "rows": rows}
    save(build(point, kind, trained), path, tokenizer, **about)


@main.command()
@click.argument("model", metavar="DIR|NAME")
@click.option("--prompt", help="answer this, and end")
@click.option("--max-new-tokens", default=256, show_default=True)
@run.writer_options
def chat(model: str, prompt: str | None, max_new_tokens: int, **how: Any) -> None:
    """Talk with a model: a folder, a hub name, or one under data/checkpoints.

    A line is a turn, from a terminal or a pipe. Ctrl-C ends an answer, /quit the talk.
    """
    from fastlab.spec.checks import check_count

    check_count("max_new_tokens", max_new_tokens)
    from fastlab.checkpoints import folder_of
    from fastlab.runtime.chat import Chat
    from fastlab.runtime.sampling import Sampling

    model = folder_of(model)
    where = run.checked(model, how["precision"], how["device"], how["runtime"])
    sampling = Sampling(how["temperature"], how["top_k"], how["seed"])
    loaded = run.load_writer(model, *where, "fastlab generate may run it")
    talk = Chat(*loaded, max_new_tokens, sampling, how["runtime"])
    for words in _lines() if prompt is None else [prompt]:
        _answer(talk, words)


def _lines() -> Iterator[str]:
    """Turns as they are typed or piped in, up to /quit or their end."""
    typed = sys.stdin.isatty()
    while True:
        try:
            words = input("> " if typed else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if not typed:
                raise
            words = ""
            click.echo("\n/quit or Ctrl-D ends the talk", err=True)
        if words == "/quit":
            return
        if words:
            yield words


def _answer(talk: Chat, words: str) -> None:
    """Stream an answer; Ctrl-C ends it, a second one the program."""

    def halt(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if talk.stream:
            talk.stream.halted = True

    before, reused = signal.signal(signal.SIGINT, halt), talk.held.hits.reused
    try:
        for piece in talk.answer(words):
            click.echo("\t".join(map(printable, piece.split("\t"))), nl=False)
    finally:
        signal.signal(signal.SIGINT, before)
    click.echo()
    if talk.stream and talk.stream.speed:
        said = run.speed_words(talk.stream.speed)
        kept = f"; {talk.held.hits.reused - reused} tokens were cached"
        click.secho(said + kept, dim=True, err=True)
