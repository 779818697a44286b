"""A progress bar of training steps, on stderr, that appears with the first of them."""

from __future__ import annotations

from typing import Any


class StepBar:
    """A tqdm bar with the loss, from whatever step the run is at."""

    def __init__(self, steps: int | None = None, name: str = "") -> None:
        self.steps, self.name = steps, name
        self.bar: Any = None

    def __enter__(self) -> Any:
        return self.update

    def update(self, row: dict[str, float]) -> None:
        """Show {step, loss}; one step less than before begins a new bar."""
        from tqdm import tqdm

        if self.bar is None or row["step"] < self.bar.n:
            self.close()
            self.bar = tqdm(
                total=self.steps, unit="step", desc=self.name or None, disable=None
            )
        self.bar.n = int(row["step"])
        self.bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
        self.bar.update(0)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()

    def __exit__(self, *_: object) -> None:
        self.close()
