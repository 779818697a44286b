"""What a check found: Finding and Report; and what it looks at: Subject."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

VERDICTS = {True: "OK", False: "FAIL", None: "SKIP"}


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
        return VERDICTS[self.ok]

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
        fine = _table(f for f in self.findings if f.ok)
        other = _table(f for f in self.findings if not f.ok)
        folded = f"<details><summary>what is OK</summary>{fine}</details>"
        return f"<p><b>{self.summary}</b></p>{other}{folded}"


def _table(findings: Iterable[Finding]) -> str:
    rows = [
        _row("td", f.verdict, f.name, f.said, f.fix if f.ok is False else "")
        for f in findings
    ]
    head = _row("th", "verdict", "what", "said", "fix")
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _row(tag: str, *words: str) -> str:
    cells = (f'<{tag} style="text-align:left">{html.escape(w)}</{tag}>' for w in words)
    return f"<tr>{''.join(cells)}</tr>"


@dataclass(frozen=True)
class Subject:
    """What is examined: the device asked for, what it is here, and a store.

    `kind` is "" where there is no such device, and `trouble` says why.
    """

    wanted: str = "auto"
    kind: str = ""
    trouble: str = ""
    store: Path | None = None
