"""fastlab pack and chat: a model as a recipe makes it, kept, and to talk with."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fastlab.cli import points as given
from fastlab.cli import run
from fastlab.cli.points import device_option, main, point_options, say, students_option
from fastlab.cli.stores import folder_argument, store_of, worse_option
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
@worse_option
@device_option
@click.option("--text", multiple=True, help="text file, where a recipe learns or looks")
@students_option
def pack(
    to: str,
    store: str | None,
    best: bool,
    key: str,
    worse: float,
    device: str,
    text: tuple[str, ...],
    students: str | None,
    **options: str | None,
) -> None:
    """Make a model as a recipe says and write it to a folder that loads as it is.

    The recipe: the options of `fastlab measure`, or a row of a store. The folder holds
    weights, config, tokenizer, and fastlab.json, which says what it is.
    """
    from fastlab.shrink.packing import check_free

    check_free(to)
    if (best or key) and not store:
        raise ValueError("--best and --key are of a store: name it with --from")
    records = [*store_of(store).each(samples=False)] if store else []
    if best or key:
        others = [
            name for name, v in options.items() if v is not None and name != "model"
        ]
        if others or (best and key):
            raise ValueError(f"--best, --key or {others or 'options'}: one of them")
        point = _chosen(records, key, worse)
    else:
        points = given.points_from(options)
        if len(points) != 1:
            raise ValueError(f"{len(points)} points: a folder holds one, name it")
        point = points[0]
    envs = store_of(store).envs() if store else {}
    rows = [
        row.to_dict() | {"environment": envs.get(row.env)}
        for row in records
        if row.point.model_key == point.model_key
    ]
    _pack(point, to, rows, device, options["model"], text, students)


def _chosen(records: list[Record], key: str, worse: float) -> Point:
    """The point of a row: the winner's, or that whose key begins so."""
    from fastlab.report.winner import judged, main_call
    from fastlab.report.winner import winner as winner_of

    if key:
        found = {row.key: row.point for row in records if row.key.startswith(key)}
        if len(found) != 1:
            raise ValueError(f"key={key!r} begins the keys of {len(found)} rows, not 1")
        return next(iter(found.values()))
    won = winner_of(main_call(judged(records, {})), worse)
    if won is None:
        raise ValueError(f"no row of the store is known to lose at most {worse:g}")
    return records[int(str(won.name))].point


def _pack(
    point: Point, to: str, rows: list[Any], device: str, source: Any, *of: Any
) -> None:
    from fastlab import machine
    from fastlab.checkpoints import tokenizer_of
    from fastlab.report.winner import MODEL, source_of
    from fastlab.shrink.packing import pack as packed
    from fastlab.shrink.recipes import build
    from fastlab.shrink.trained import Trained
    from fastlab.spec.unsupported import unsupported

    kind, trained = machine.torch_device(device), None
    if reason := unsupported(point, machine.Here(kind)):
        raise ValueError(reason)
    if point.seed is None:
        source, (text, students) = source or source_of(point), of
        if source == MODEL:
            raise ValueError(f"weights={point.weights!r}: say where they are: --model")
        trained = Trained(source, text, students or "results/students")
    model = build(point, kind, trained)
    tokenizer = tokenizer_of(trained.folder) if trained else None
    manifest = packed(model, point, to, tokenizer, rows)
    say(f"{to}: {point.label}, {len(manifest['files'])} files, {len(rows)} rows of it")


@main.command()
@click.argument("model", metavar="DIR|NAME")
@click.option("--prompt", help="answer this, and end")
@click.option("--max-new-tokens", default=256, show_default=True)
@click.option("--precision", help="[fp32, or what the folder holds]")
@device_option
@click.option("--runtime", default="eager", show_default=True, help=run.RUNTIME_HELP)
@click.option("--temperature", default=0.0, show_default=True, help="0 = greedy")
@click.option("--top-k", default=0, show_default=True, help="0 = all tokens")
@click.option("--seed", default=0, show_default=True)
def chat(model: str, prompt: str | None, max_new_tokens: int, **how: Any) -> None:
    """Talk with a model: a folder, a hub name, or one under data/checkpoints.

    A line is a turn, from a terminal or a pipe. Ctrl-C ends an answer, /quit the talk.
    """
    from fastlab.spec.checks import check_count

    check_count("max_new_tokens", max_new_tokens)
    from fastlab.checkpoints import folder_of

    model = folder_of(model)
    where = run.checked(model, how["precision"], how["device"], how["runtime"])
    from fastlab.runtime.chat import Chat
    from fastlab.runtime.sampling import Sampling

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
            words = input("> " if typed else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            if not typed:
                raise
            click.echo("\n/quit or Ctrl-D ends the talk", err=True)
            continue
        if words.strip() == "/quit":
            return
        if words.strip():
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
