"""Errors that say what is allowed, and the canonical JSON that keys are made of."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Words to end an error with: the nearest allowed name, or else all of them."""
    allowed = list(allowed)
    close = nearest(name, allowed)
    return f"; did you mean {close}?" if close else f"; allowed: {', '.join(allowed)}"


def nearest(name: str, allowed: list[str]) -> str:
    """The allowed name that was likely meant, "" where none is near."""
    begun = [a for a in allowed if len(name) > 2 and a.startswith(name)]
    return next(iter(begun or difflib.get_close_matches(name, allowed, n=1)), "")


def check_choice(
    field: str,
    value: object,
    allowed: Iterable[str],
    others: Mapping[str, str] | None = None,
) -> None:
    """Raise ValueError naming field, value and choices unless `value` is a choice.

    others: the choice that is meant by another word for it.
    """
    allowed = list(allowed)
    if value not in allowed:
        close = (others or {}).get(str(value)) or nearest(str(value), allowed)
        hint = f"; did you mean {close}?" if close else ""
        raise ValueError(f"{field}={value!r} is not one of {', '.join(allowed)}{hint}")


def check_count(field: str, value: object, low: int = 1, high: int = 2**31) -> None:
    """Raise ValueError unless `value` is a whole number from `low` to `high`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(
            f"{field}={value!r} must be a whole number from {low} to {high}"
        )


def canonical(data: Any) -> str:
    """JSON with sorted keys and no spaces; NaN and infinity raise ValueError."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(data: Any) -> str:
    """sha256 of the canonical JSON of `data`, in hex."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def check_names(what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise ValueError for the first name in `given` that is not allowed."""
    allowed = list(allowed)
    for name in given:
        if name not in allowed:
            raise ValueError(f"unknown {what} field {name!r}{suggest(name, allowed)}")


def make(cls: Any, data: Mapping[str, Any]) -> Any:
    """An instance of a spec class from a mapping; unknown or absent names raise."""
    check_names(cls.__name__, data, [f.name for f in fields(cls)])
    needed = [
        f.name
        for f in fields(cls)
        if f.default is MISSING and f.default_factory is MISSING
    ]
    absent = [n for n in needed if n not in data]
    if absent:
        raise ValueError(f"{cls.__name__} needs {', '.join(absent)}")
    return cls(**data)


def differences(value: Any, bare: Any) -> dict[str, Any]:
    """The fields of a spec in which it differs from another of its class."""
    names = [f.name for f in fields(value)]
    return {
        n: getattr(value, n) for n in names if getattr(value, n) != getattr(bare, n)
    }
