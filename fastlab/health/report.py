"""What a check found: Finding and Report; and what it looks at: Subject."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """One verdict: ok is True, False (broken; `fix` says what to do) or None (skipped).

    Raises ValueError for a failure without a fix.
    """

    name: str
    ok: bool | None
    said: str
    fix: str = ""

    def __post_init__(self) -> None:
        if self.ok is False and not self.fix:
            raise ValueError(f"the failure {self.name!r} must come with its fix")

    @property
    def verdict(self) -> str:
        """OK, FAIL or SKIP."""
        return {True: "OK", False: "FAIL", None: "SKIP"}[self.ok]

    def __str__(self) -> str:
        fix = f"\n     fix: {self.fix}" if self.ok is False else ""
        return f"{self.verdict:<4} {self.name}: {self.said}{fix}"


@dataclass(frozen=True)
class Report:
    """All findings, as lines of text or as a table in a notebook."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is broken."""
        return all(finding.ok is not False for finding in self.findings)

    @property
    def summary(self) -> str:
        """One line of counts: "21 OK, 3 skipped, 0 broken"."""
        count = Counter(finding.ok for finding in self.findings)
        return f"{count[True]} OK, {count[None]} skipped, {count[False]} broken"

    def __repr__(self) -> str:
        return "\n".join([*map(str, self.findings), self.summary])

    def _repr_html_(self) -> str:
        """What is broken or skipped, and what is fine one click away."""
        fine, other = (
            [f for f in self.findings if (f.ok is True) == ok] for ok in (1, 0)
        )
        folded = f"<details><summary>what is OK</summary>{_table(fine)}</details>"
        return f"<p><b>{self.summary}</b></p>{_table(other)}{folded}"


def _table(findings: Iterable[Finding]) -> str:
    rows = [("verdict", "what", "said", "fix")]
    rows += [(f.verdict, f.name, f.said, f.fix * (f.ok is False)) for f in findings]
    left = '<td style="text-align:left">'  # JupyterLab has them to the right
    cells = [[f"{left}{html.escape(word)}</td>" for word in row] for row in rows]
    lines = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return f"<table>{lines}</table>"


@dataclass(frozen=True)
class Subject:
    """What is examined: the device asked for, what it is here, and a store.

    `kind` is "" where there is no such device, and `trouble` says why.
    """

    wanted: str = "auto"
    kind: str = ""
    trouble: str = ""
    store: Path | None = None
