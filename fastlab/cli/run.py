"""fastlab run, batch, generate and doctor."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlab.cli.points import device_option, echo_table, main, say, shown, stopped
from fastlab.spec.engines import ENGINES
from fastlab.words import one_line

if TYPE_CHECKING:
    from fastlab.notebook.batch import Outcome
    from fastlab.runtime.streaming import Speed

SHOWN_ROWS = 12
STREAMING = [name for name, engine in ENGINES.items() if "decode" in engine.phases]
FILE_HELP = "YAML: a mapping of parameters, a list of such, `grid` in one multiplied"
OUT_HELP = "table and index are written here [results/batch/NAME]"
RUNTIME_HELP = f"what runs it: {', '.join(STREAMING)}"


def parameter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """-p, -f and -y, each over the one that is named after it here."""
    for short, name, how, words in (
        ("-f", "file", {"type": click.Path(exists=True, dir_okay=False)}, FILE_HELP),
        ("-y", "text", {"metavar": "YAML", "default": ""}, "YAML, over -f"),
        ("-p", "pairs", {"nargs": 2, "multiple": True, "metavar": "NAME VALUE"}, ""),
    ):
        flag = "--" + ("parameter" if name == "pairs" else f"parameters-{name}")
        command = click.option(short, flag, name, help=words, **how)(command)
    return command


def _sets(
    file: str | None, text: str, pairs: tuple[tuple[str, str], ...]
) -> list[dict[str, Any]]:
    """The sets of parameters that the options give."""
    from fastlab.notebook.parameters import parameter_sets

    names = [name for name, _ in pairs]
    if double := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"parameter {double[0]} is given twice")
    each = []
    for place, words in ((file, None), ("-y", text)):
        try:
            given = Path(file).read_text("utf-8") if file and words is None else words
            each.append(parameter_sets(given or ""))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    return [from_file | own | dict(pairs) for from_file in each[0] for own in each[1]]


@main.command()
@click.argument("notebook", type=click.Path(exists=True, dir_okay=False))
@parameter_options
def run(notebook: str, **given: Any) -> None:
    """Run a NOTEBOOK with parameters that are checked first; keep its results."""
    from fastlab.notebook.batch import run_notebook

    if len(sets := _sets(**given)) > 1:
        raise ValueError(f"{len(sets)} sets of parameters: fastlab batch runs several")
    result = run_notebook(Path(notebook), sets[0])
    if "table" in result:
        _echo_rows(result["table"])
    for name, path in result.items():
        click.echo(f"{name + ':':<10} {path}")


@main.command()
@click.argument(
    "notebooks",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@parameter_options
@click.option("--timeout-s", type=float, help="a notebook that takes longer is killed")
@click.option("--rerun", is_flag=True, help="run those anew that are finished")
@click.option("--out", type=click.Path(file_okay=False), help=OUT_HELP)
def batch(
    notebooks: tuple[Path, ...],
    timeout_s: float | None,
    rerun: bool,
    out: str | None,
    **given: Any,
) -> None:
    """Run NOTEBOOKS one after the other, each with every set of parameters.

    All are checked before the first starts. The same command after an interruption
    runs what is not finished; a table and a page with all figures are written last.
    """
    from fastlab.notebook.batch import jobs_of, run_batch, told_apart
    from fastlab.notebook.run import results_root

    if timeout_s is not None and not timeout_s > 0:
        raise ValueError(f"--timeout-s {timeout_s:g} must be above 0")
    jobs = jobs_of(notebooks, _sets(**given))
    apart = told_apart(jobs)
    name = Path(given["file"] or notebooks[0]).stem
    folder = Path(out) if out else results_root() / "batch" / name
    outcomes: list[Outcome] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        for outcome in run_batch(jobs, timeout_s, rerun):
            outcomes.append(outcome)
            when = " before" if outcome.before else f" in {outcome.seconds:.0f} s"
            said = f"{len(outcomes)} of {len(jobs)} {outcome.status}{when}: "
            said += f"{outcome.job.label(apart)} {outcome.why}"
            say(one_line(said), err=True)
    except KeyboardInterrupt:
        stopped("finished notebooks are kept")
        sys.exit(130)
    finally:
        if outcomes:
            _echo_batch(outcomes, folder)
    sys.exit(int(any(outcome.status != "finished" for outcome in outcomes)))


def _echo_batch(outcomes: Sequence[Outcome], folder: Path) -> None:
    from fastlab.notebook.index import summary, write_index
    from fastlab.sweeps.keeping import write_table

    table = summary(outcomes)
    write_table(table, folder / "table.csv")
    echo_table(table.drop(columns="why"))
    click.echo(f"table:     {folder / 'table.csv'}")
    click.echo(f"index:     {write_index(outcomes, folder)}")


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


def writer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a model is loaded as, what runs it, and how tokens are drawn."""
    shown: dict[str, Any] = {"show_default": True}
    for option in (
        click.option("--seed", default=0, **shown),
        click.option("--top-k", default=0, help="0 = all tokens", **shown),
        click.option("--temperature", default=0.0, help="0 = greedy", **shown),
        click.option("--runtime", default="eager", help=RUNTIME_HELP, **shown),
        device_option,
        click.option("--precision", help="[fp32, or what the folder holds]"),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("prompt")
@click.option("--model", required=True, help="hub name or local folder")
@click.option("--new-tokens", default=32, show_default=True)
@writer_options
@click.option("--stream", "streamed", is_flag=True, help="show text as it is made")
@click.option("--stop", multiple=True, help="end before this text; may be repeated")
def generate(
    prompt: str, model: str, new_tokens: int, precision: str | None, **how: Any
) -> None:
    """Continue PROMPT with a real model: text in, text out."""
    from fastlab.spec.checks import check_count

    check_count("new_tokens", new_tokens)
    if "" in how["stop"]:
        raise ValueError("stop='' must have at least one character")
    runtime = how["runtime"]
    where = checked(model, precision, how["device"], runtime)
    from fastlab.checkpoints import generate_text
    from fastlab.runtime.sampling import Sampling

    sampling = Sampling(how["temperature"], how["top_k"], how["seed"])
    drawn = how["temperature"] or how["stop"] or runtime != "eager"
    ours = how["streamed"] or drawn  # only our decoder draws, stops and compiles
    loaded = load_writer(model, *where, "leave out --stream" if ours else None)
    if ours:
        _stream(prompt, loaded, new_tokens, sampling, how["stop"], runtime)
    else:
        click.echo(prompt + generate_text(*loaded, prompt, new_tokens))


def checked(
    model: str, precision: str | None, device: str, runtime: str
) -> tuple[str, str]:
    """Kind of device and precision for a model; ValueError before it is loaded."""
    from fastlab import machine
    from fastlab.spec.checks import check_choice
    from fastlab.spec.formats import PRECISIONS
    from fastlab.spec.manifest import held_recipe

    held = held_recipe(model)
    precision = precision or (held.precision if held else "fp32")
    check_choice("precision", precision, PRECISIONS)
    check_choice("runtime", runtime, STREAMING)
    kind = machine.torch_device(device)
    if reason := machine.unsupported_reason(kind, precision):
        raise ValueError(f"precision={precision!r}: {reason}")
    if reason := ENGINES[runtime].unsupported(machine.Here(kind)):
        raise ValueError(reason)
    return kind, precision


def load_writer(
    model: str, kind: str, precision: str, instead: str | None
) -> tuple[Any, Any]:
    """Model and tokenizer; an error at once where it is none that writes.

    instead: what to do where our decoder cannot run it, None where it need not.
    """
    from fastlab.spec.configs import read_config
    from fastlab.spec.hub import check_source, in_one_line

    check_source(model, needs_weights=True)
    from fastlab.checkpoints import check_writes
    from fastlab.shrink.recipes import load
    from fastlab.tracing.caches import static_cache_reason

    with in_one_line(model):
        check_writes(config := read_config(model))
    if instead is not None and (reason := static_cache_reason(config)):
        raise ValueError(f"model={model!r}: {reason}; {instead}")
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
    if text.speed:
        click.echo(speed_words(text.speed), err=True)


def speed_words(speed: Speed) -> str:
    """Tokens, TTFT, TPOT and tokens per second of an answer, in a line."""
    tpot, compiled = speed.tpot_s, speed.compile_s
    then = "" if tpot is None else f", then {tpot * 1e3:.1f} ms each (TPOT)"
    before = "" if compiled is None else f"; compiled in {compiled:.1f} s"
    return (
        f"{speed.tokens} tokens, first after {speed.ttft_s * 1e3:.1f} ms (TTFT){then}: "
        f"{speed.tokens_per_s:.1f} tokens/s (ended by {speed.ended}){before}"
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
