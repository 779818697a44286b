"""Everything that wants a GPU, in steps, a budget of seconds, one folder: `make gpu`.

    python benchmarks/gpu.py --seconds 500 --out results/gpu

Tests of the device, calibration, the ladders of decoding, Triton's loops unrolled, the
reference sweep. What
takes too long is stopped in time, and the same command goes on where it stopped: a step
that ended is not repeated (steps.json has its exit status and seconds; one that failed
is tried again by another commit), and of the others what they kept is not. Everything
is in the folder: rows, profile.json, samples.json, log.txt, the profile that estimates
use. $OUT, if that is set, gets it as gpu.tar.gz after each step.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from fastlab.machine import commit

ROOT = Path(__file__).parents[1]
MODELS = ("llama-3.1-8b", "llama-3.2-1b")
TESTS = ("clock", "measure", "decode", "quantize", "sparse")
LAST_S, LEAST_S = 15.0, 20.0  # to end a step in; a step is not worth less


@dataclass(frozen=True)
class Step:
    """Its name and what comes after python; `stops`: it takes --for-s itself."""

    name: str
    command: tuple[str, ...]
    stops: bool = False


def steps(options: argparse.Namespace) -> list[Step]:
    """All of them, in the order in which they are worth the time."""
    out, cuda = str(options.out), ("--device", "cuda")
    pytest = ("-m", "pytest", "-m", "gpu", "-s", *options.pytest)
    tests = [
        Step(f"tests {name}", (*pytest, f"tests/gpu/test_{name}_gpu.py"))
        for name in options.tests
    ]
    calibrate = ("-m", "fastlab", "calibrate", *cuda, "--out", out)
    ladder = ("benchmarks/decode_ladder.py", *cuda, "--budget-s", "1", "--out", out)
    only = ("--only", *options.only) if options.only else ()
    ladders = [
        Step(f"ladder {model}", (*ladder, "--model", model, *only))
        for model in options.models
    ]
    unroll = ("benchmarks/unroll.py", "--out", out)
    sweep = ("-m", "fastlab", "sweep", options.sweep, *cuda, "--store", out)
    sweep += ("--mix-hosts",)  # rented machines come and go; rows name them
    chosen = [
        Step("calibrate", calibrate),
        *tests,
        *ladders,
        Step("unroll", unroll),
        Step("sweep", sweep, True),
    ]
    return [step for step in chosen if step.name.split()[0] in options.steps]


class Session:
    """One command's time, and what earlier ones finished."""

    def __init__(self, out: Path, seconds: float) -> None:
        self.out, self.path = out, out / "steps.json"
        self.ends, self.commit = time.monotonic() + seconds, commit()
        out.mkdir(parents=True, exist_ok=True)
        self.done = json.loads(self.path.read_text()) if self.path.exists() else {}

    @property
    def left_s(self) -> float:
        """Seconds for a step that starts now."""
        return self.ends - time.monotonic() - LAST_S

    def is_done(self, step: Step) -> bool:
        """Whether it ended well, or badly with this very code."""
        kept = self.done.get(step.name)
        return bool(kept) and (kept["status"] == 0 or kept["commit"] == self.commit)

    def run(self, step: Step) -> bool:
        """Run a step; whether it came to its end in time."""
        limit, began = self.left_s, time.monotonic()
        more = ("--for-s", f"{limit:.0f}") if step.stops else ()
        status = run((sys.executable, *step.command, *more), limit, self.out)
        seconds = time.monotonic() - began
        ended = status is not None and not (step.stops and seconds >= limit)
        if ended:
            kept = {
                "status": status,
                "seconds": round(seconds, 1),
                "commit": self.commit,
            }
            self.done[step.name] = kept
            fresh = self.path.with_suffix(".tmp")
            fresh.write_text(json.dumps(self.done, indent=1) + "\n")
            fresh.replace(self.path)
        pack(self.out)
        return ended


def run(command: tuple[str, ...], limit: float, out: Path) -> int | None:
    """Exit status; None if it had to be stopped. What it says also goes to log.txt."""
    cache = out.resolve() / "cache"  # the profile that estimates use goes along
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    env = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": path}
    env["PYTHONUNBUFFERED"] = "1"
    with (out / "log.txt").open("a") as log:
        print("$", *command, file=log, flush=True)
        with subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=log, stderr=log
        ) as step:
            try:
                return step.wait(limit)
            except subprocess.TimeoutExpired:
                stop(step)
                return None


def stop(step: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does, which keeps what there is; then without mercy."""
    step.send_signal(signal.SIGINT)
    try:
        step.wait(LAST_S / 2)
    except subprocess.TimeoutExpired:
        step.kill()


def pack(out: Path) -> None:
    """The folder as one file in $OUT, where machines that are lent look for files."""
    if where := os.environ.get("OUT"):
        fresh = Path(where) / "gpu.tar.gz.tmp"
        with tarfile.open(fresh, "w:gz") as tar:
            tar.add(out, arcname="gpu")
        fresh.replace(fresh.with_suffix(""))


def main() -> int:
    """Run what is left; 1 if a step failed or time was up."""
    options = _options()
    session = Session(options.out, options.seconds)
    for step in steps(options):
        if session.is_done(step):
            print(f"{step.name}: done before", flush=True)
        elif session.left_s < min(LEAST_S, options.seconds / 10):
            print(f"{step.name}: no time left, call again", flush=True)
        else:
            ended = session.run(step)
            kept = session.done.get(step.name, {})
            failed = (
                f"failed, see {options.out}/log.txt" if kept.get("status") else "ok"
            )
            print(
                f"{step.name}: {failed if ended else 'stopped, call again'}", flush=True
            )
    wanted = [session.done.get(step.name) for step in steps(options)]
    return int(any(kept is None or kept["status"] != 0 for kept in wanted))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    every = ("tests", "calibrate", "ladder", "unroll", "sweep")
    parser.add_argument("--seconds", type=float, default=1e5, help="for all steps")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--steps", nargs="+", choices=every, default=every)
    parser.add_argument("--models", nargs="+", default=MODELS, help="of the ladders")
    parser.add_argument("--only", nargs="*", help="rungs whose names hold one of these")
    parser.add_argument("--sweep", default="data/sweeps/reference.yaml")
    parser.add_argument("--tests", nargs="+", choices=TESTS, default=TESTS)
    parser.add_argument("--pytest", nargs="*", default=(), help="more for the tests")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
