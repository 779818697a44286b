"""The group `fastlab`: what users can get wrong becomes one line on stderr."""

from __future__ import annotations

from typing import Any

import click

# Raised with a message for users, in modules too heavy to import here.
WORDED = ("StoreBusy", "DeviceLost", "NotebookFailed")


class Commands(click.Group):
    """Turns what users can get wrong into one line on stderr and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            raise click.UsageError(str(error)) from error
        except RuntimeError as error:
            if type(error).__name__ in WORDED:
                raise click.ClickException(str(error)) from error
            raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fastlab-notebooks")
def main() -> None:
    """Predict what a transformer costs, measure it, and compare."""
