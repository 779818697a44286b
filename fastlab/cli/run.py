"""fastlab run, generate and doctor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fastlab.cli.points import device_option, echo_table, main, say, shown
from fastlab.spec.engines import ENGINES

SHOWN_ROWS = 12
STREAMING = [name for name, engine in ENGINES.items() if "decode" in engine.phases]
RUNTIME_HELP = f"what runs it: {', '.join(STREAMING)}"


@main.command()
@click.argument("notebook", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "-p", "--parameter", "pairs", nargs=2, multiple=True, metavar="NAME VALUE"
)
def run(notebook: str, pairs: tuple[tuple[str, str], ...]) -> None:
    """Run a NOTEBOOK with parameters that are checked first; keep its results."""
    from fastlab.notebook.batch import run_notebook

    names = [name for name, _ in pairs]
    if double := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"parameter {double[0]} is given twice")
    result = run_notebook(Path(notebook), dict(pairs))
    if "table" in result:
        _echo_rows(result["table"])
    for name, path in result.items():
        click.echo(f"{name + ':':<10} {path}")


def _echo_rows(path: str) -> None:
    """Estimate, measurement and ratio of the first rows, and how the ratios lie."""
    import pandas as pd

    from fastlab.reading import within
    from fastlab.rows import compared
    from fastlab.words import times

    rows = pd.read_csv(path, keep_default_na=False, na_values=[""])
    if not {"measured_ms", "ratio"} <= set(rows.columns):
        return
    echo_table(shown(rows.fillna({"reason": "", "flags": ""})).head(SHOWN_ROWS))
    known = compared(rows)
    median = times(known["ratio"].median()) if len(known) else "none"
    click.echo(f"{len(rows)} rows; measured / estimated: median {median}", nl=False)
    click.echo(f", {within(known, 1.25)}\n")


@main.command()
@click.argument("prompt")
@click.option("--model", required=True, help="hub name or local folder")
@click.option("--new-tokens", default=32, show_default=True)
@click.option("--precision", help="[fp32, or what the folder holds]")
@device_option
@click.option("--stream", "streamed", is_flag=True, help="show text as it is made")
@click.option("--runtime", default="eager", show_default=True, help=RUNTIME_HELP)
@click.option("--temperature", default=0.0, show_default=True, help="0 = greedy")
@click.option("--top-k", default=0, show_default=True, help="0 = all tokens")
@click.option("--seed", default=0, show_default=True)
@click.option("--stop", multiple=True, help="end before this text; may be repeated")
def generate(
    prompt: str, model: str, new_tokens: int, precision: str | None, **how: Any
) -> None:
    """Continue PROMPT with a real model: text in, text out."""
    from fastlab import machine
    from fastlab.spec.checks import check_choice, check_count
    from fastlab.spec.formats import PRECISIONS
    from fastlab.spec.manifest import held_recipe

    held = held_recipe(model)
    precision = precision or (held.precision if held else "fp32")
    check_choice("precision", precision, PRECISIONS)
    check_count("new_tokens", new_tokens)
    check_choice("runtime", runtime := how["runtime"], STREAMING)
    if "" in how["stop"]:
        raise ValueError("stop='' must have at least one character")
    kind = machine.torch_device(how["device"])
    if reason := machine.unsupported_reason(kind, precision):
        raise ValueError(f"precision={precision!r}: {reason}")
    if reason := ENGINES[runtime].unsupported(machine.Here(kind)):
        raise ValueError(reason)
    from fastlab.checkpoints import generate_text
    from fastlab.runtime.sampling import Sampling

    sampling = Sampling(how["temperature"], how["top_k"], how["seed"])
    drawn = how["temperature"] or how["stop"] or runtime != "eager"
    ours = how["streamed"] or drawn  # only our decoder draws, stops and compiles
    loaded = _loaded(model, kind, precision, ours)
    if ours:
        _stream(prompt, loaded, new_tokens, sampling, how["stop"], runtime)
    else:
        click.echo(prompt + generate_text(*loaded, prompt, new_tokens))


def _loaded(model: str, kind: str, precision: str, ours: bool) -> tuple[Any, Any]:
    """Model and tokenizer; an error at once where it is none that writes.

    ours: or none that our decoder can run.
    """
    from fastlab.spec.configs import read_config
    from fastlab.spec.hub import check_source, in_one_line

    check_source(model, needs_weights=True)
    from fastlab.checkpoints import check_writes
    from fastlab.shrink.recipes import load
    from fastlab.tracing.caches import static_cache_reason

    with in_one_line(model):
        check_writes(config := read_config(model))
    if ours and (reason := static_cache_reason(config)):
        raise ValueError(f"model={model!r}: {reason}; leave out --stream")
    loaded = load(model, kind, precision)
    if loaded[1] is None:
        raise ValueError(f"model={model!r} has no tokenizer, which reads the prompt")
    return loaded


def _stream(prompt: str, loaded: tuple[Any, Any], *how: Any) -> None:
    from fastlab.runtime.streaming import stream

    model, tokenizer = loaded
    text = stream(model, tokenizer, prompt, *how)
    click.echo(prompt, nl=False)
    for piece in text:
        click.echo(piece, nl=False)
    click.echo()
    if not (speed := text.speed):
        return
    tpot, compiled = speed.tpot_s, speed.compile_s
    then = "" if tpot is None else f", then {tpot * 1e3:.1f} ms each"
    before = "" if compiled is None else f"; compiled in {compiled:.1f} s"
    click.echo(
        f"{speed.tokens} tokens, first after {speed.ttft_s * 1e3:.1f} ms{then}: "
        f"{speed.tokens_per_s:.1f} tokens/s (ended by {speed.ended}){before}",
        err=True,
    )


@main.command()
@device_option
@click.option("--store", type=click.Path(), help="also check the rows kept here")
def doctor(device: str, store: str | None) -> None:
    """What works on this machine, and how to mend what does not."""
    from fastlab.health import Report, findings

    found = []
    for finding in findings(device, store):
        say(str(finding))
        found.append(finding)
    report = Report(tuple(found))
    click.echo(report.summary)
    if not report.ok:
        sys.exit(1)
