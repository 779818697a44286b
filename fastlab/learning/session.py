"""Many steps of a Trainer: the loss curve, checkpoints, and going on after a stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlab.learning.checkpoint import Curve, load_state, save_state
from fastlab.learning.loop import Plan, Trainer

Row = dict[str, float]
OnRow = Callable[[Row], None]


@dataclass
class Session:
    """A trainer, and where its run is kept; without a folder nothing is.

    evaluate: called every evaluate_every steps, its value goes into the curve's rows
    as "held_out". save_every_s: seconds of work that a kill can lose at most, as long
    as one step takes less.
    """

    trainer: Trainer
    folder: Path | None = None
    save_every_s: float = 60.0
    log_every: int = 10
    evaluate: Callable[[], float] | None = None
    evaluate_every: int = 250

    def __post_init__(self) -> None:
        state = load_state(self.folder) if self.folder else None
        if state is not None:
            self.trainer.restore(state)
        self.curve = Curve(self.folder, self.trainer.step)
        self._since: list[Row] = []

    def plan(self, steps: int) -> None:
        """So many steps in all, unless the run has a plan from before its stop."""
        if self.trainer.plan.end is None:
            left = max(1, steps - self.trainer.step)
            how, at = self.trainer.how, self.trainer.step
            self.trainer.plan = Plan.of(left, how.decay, at)

    def finish(self, steps: int | None = None) -> None:
        """Shrink learning rates from here on and end; usually after a quarter more.

        A run that is finishing already goes on with that, unless steps says otherwise.
        """
        at, plan = self.trainer.step, self.trainer.plan
        if steps is None and plan.decay_from is not None and at > plan.decay_from:
            return
        self.trainer.plan = Plan.of(steps or max(1, at // 4), 1.0, at)

    def run(self, on_row: OnRow | None = None, minutes: float | None = None) -> None:
        """Steps up to the plan's end; with minutes, of which a fifth is for finishing.

        on_row sees a row after each step: {step, loss, rate, seconds}, seconds of that
        step. Rows of the curve are means over log_every steps.
        """
        saved = time.monotonic()
        while not self.trainer.done:
            row = self.trainer.advance()
            self._log(row)
            if on_row is not None:
                on_row(row)
            if time.monotonic() - saved >= self.save_every_s:
                self.save()
                saved = time.monotonic()
            if minutes and self.trainer.seconds > 48 * minutes:
                self._finish_once()
        self.save()

    def save(self) -> None:
        """Keep the state now; a kill later comes back to here."""
        if self.folder is not None:
            save_state(self.folder, self.trainer.state())

    def _finish_once(self) -> None:
        if self.trainer.plan.end is None:
            self.finish()

    def _log(self, row: Row) -> None:
        self._since.append(row)
        step, last = int(row["step"]), self.trainer.done
        looks = self.evaluate is not None and (last or not step % self.evaluate_every)
        if looks or last or not step % self.log_every:
            extra = {"held_out": self.evaluate()} if looks else {}  # type: ignore[misc]
            self.curve.append(self._mean() | extra)
            self._since = []

    def _mean(self) -> Row:
        rows, how = self._since, self.trainer.how
        seconds = sum(row["seconds"] for row in rows)
        return {
            "step": rows[-1]["step"],
            "loss": round(sum(row["loss"] for row in rows) / len(rows), 5),
            "rate": round(rows[-1]["rate"], 5),
            "tokens_per_s": round(len(rows) * how.batch * how.block / seconds, 1),
            "seconds": round(self.trainer.seconds, 1),
        }


def summary_of(rows: list[Row], count: int = 12) -> list[dict[str, Any]]:
    """Some rows of a curve, evenly spread, the last among them."""
    if len(rows) <= count:
        return list(rows)
    step = (len(rows) - 1) / (count - 1)
    return [rows[round(n * step)] for n in range(count)]
