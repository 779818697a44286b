"""Errors that say what is allowed, and the canonical JSON that keys are made of."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, get_args, get_origin, get_type_hints


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Words to end an error with: the allowed name likely meant, "" if none is near."""
    allowed = list(allowed)
    begun = [a for a in allowed if len(name) > 2 and a.startswith(name)]
    near = begun or difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Words to end an error with: the nearest allowed name, or else all of them."""
    allowed = list(allowed)
    return did_you_mean(name, allowed) or f"; allowed: {', '.join(allowed)}"


def check_choice(
    field: str,
    value: object,
    allowed: Iterable[Any],
    others: Mapping[str, str] | None = None,
) -> None:
    """Raise ValueError naming field, value and choices unless `value` is a choice.

    others: the choice that is meant by another word for it.
    """
    allowed = list(allowed)
    if value not in allowed or isinstance(value, (bool, float)):
        meant = (others or {}).get(str(value), str(value))
        words = [str(name) for name in allowed]
        hint = did_you_mean(meant, words)
        raise ValueError(f"{field}={value!r} is not one of {', '.join(words)}{hint}")


def check_count(field: str, value: object, low: int = 1, high: int = 2**31) -> None:
    """Raise ValueError unless `value` is a whole number from `low` to `high`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(
            f"{field}={value!r} must be a whole number from {low} to {high}"
        )


def check_number(field: str, value: Any, zero: bool = False) -> None:
    """Raise ValueError unless `value` is a finite number above 0 (or 0, if said)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and (value > 0 or (zero and value == 0))):
        bound = ">= 0" if zero else "> 0"
        raise ValueError(f"{field}={value!r} must be a finite number {bound}")


def given(about: str, default: Any = MISSING, **rule: Any) -> Any:
    """A dataclass field of a Spec, with the words that help with it."""
    return field(default=default, metadata={"about": about, **rule})


def choice(about: str, allowed: Iterable[Any], default: Any = MISSING) -> Any:
    """A field that must be one of the allowed values; a mapping says what each is."""
    return given(about, default, allowed=allowed)


def count(about: str, default: Any = MISSING, low: int = 1, high: int = 2**31) -> Any:
    """A field that must be a whole number from `low` to `high`."""
    return given(about, default, low=low, high=high)


def check_rule(field: str, value: object, rule: Mapping[str, Any]) -> None:
    """Raise ValueError unless a value is as the metadata of its field say."""
    if "allowed" in rule:
        check_choice(field, value, rule["allowed"])
    elif "low" in rule:
        check_count(field, value, rule["low"], rule["high"])


def check_names(what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise ValueError for the first name in `given` that is not allowed."""
    allowed = list(allowed)
    for name in given:
        if name not in allowed:
            raise ValueError(
                f"unknown {what} field {name!r}{suggest(str(name), allowed)}"
            )


_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(data: Any) -> str:
    """JSON with sorted keys and no spaces; NaN and infinity raise ValueError."""
    return _JSON.encode(data)


def digest(data: Any) -> str:
    """sha256 of the canonical JSON of `data`, in hex."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def make(cls: Any, data: Mapping[str, Any]) -> Any:
    """A dataclass from plain JSON values; ValueError for unknown or absent names.

    Lists become tuples, and mappings dataclasses, where its fields are such. Parts of a
    Spec that are alike are one object: rows of a sweep share most of theirs.
    """
    names, required, shapers, blank = _plan(cls)
    if not data.keys() <= names:
        check_names(cls.__name__, data, [f.name for f in fields(cls)])
    if not data.keys() >= required:
        absent = [f.name for f in fields(cls) if f.name in required - data.keys()]
        raise ValueError(f"{cls.__name__} needs {', '.join(absent)}")
    made = {name: shape(data[name]) for name, shape in shapers.items() if name in data}
    if blank is None:
        return cls(**{**data, **made})
    one = object.__new__(cls)  # its __init__ takes twice as long: a store has many
    vars(one).update(blank, **{**data, **made})
    return one


Shaper = Callable[[Any], Any]
Plan = tuple[set[str], set[str], dict[str, Shaper], dict[str, Any] | None]


@lru_cache
def _plan(cls: Any) -> Plan:
    """The names of its fields, those that must be given, those that are no plain value.

    With what makes a plain value as such a field wants it. And the defaults, where
    nothing but the fields is to be set.
    """
    hints, own = get_type_hints(cls), fields(cls)
    required = {f.name for f in own if f.default is f.default_factory is MISSING}
    all_of = {f.name: _shaper(hints[f.name], issubclass(cls, Spec)) for f in own}
    shapers = {n: shape for n, shape in all_of.items() if shape}
    blank: dict[str, Any] = {f.name: f.default for f in own if f.name not in required}
    plain = not hasattr(cls, "__post_init__") and MISSING not in blank.values()
    return {f.name for f in own}, required, shapers, blank if plain else None


def _shaper(hint: Any, shared: bool = False) -> Shaper | None:
    args, origin = get_args(hint), get_origin(hint)
    if origin is tuple:
        each = _shaper(args[0])
        all_of = partial(map, each) if each else tuple
        return lambda v: tuple(all_of(v)) if isinstance(v, list) else v
    if origin is Mapping:
        if (one := _shaper(args[1])) is None:
            return None
        return lambda v: {n: one(each) for n, each in v.items()} if v else v
    part: Any = next((one for one in (hint, *args) if is_dataclass(one)), None)
    return partial(_part, part, shared) if part else None


def _part(part: Any, shared: bool, value: Any) -> Any:
    if value is None or isinstance(value, part):
        return value
    if not isinstance(value, (dict, Mapping)):
        raise ValueError(f"{part.__name__}={value!r} must be a mapping of its fields")
    return _alike(part, canonical(value)) if shared else make(part, value)


@lru_cache(maxsize=2**14)
def _alike(part: Any, text: str) -> Any:
    return make(part, json.loads(text))


def plain(told: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by name, parts that are a Spec themselves by their canonical fields."""
    return {n: v.to_dict() if isinstance(v, Spec) else v for n, v in told.items()}


class Spec:
    """A frozen dataclass whose canonical fields leave defaults out.

    KEPT: fields that are told even where they are the default.
    """

    KEPT: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Any:
        """The instance whose `to_dict` is `data`; unknown or absent names raise."""
        return make(cls, data)

    def to_dict(self) -> dict[str, Any]:
        """Canonical fields: KEPT, others where they are not what follows from those."""
        kept = {name: getattr(self, name) for name in self.KEPT}
        bare = vars(type(self)(**kept))
        return plain(kept | {n: v for n, v in vars(self).items() if v != bare[n]})

    def _set(self, **values: Any) -> None:
        """Fill fields in while the frozen instance is made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_fields(self) -> None:
        """Raise ValueError unless all that is given is as its field's `choice` or
        `count` says; None is not given where it is the default.
        """
        for own in fields(self):  # type: ignore[arg-type]
            value = getattr(self, own.name)
            if value is not None or own.default is not None:
                check_rule(own.name, value, own.metadata)

    def refuse(self, field: str, why: str) -> None:
        """Raise ValueError naming field and value."""
        raise ValueError(f"{field}={getattr(self, field)!r} {why}")
