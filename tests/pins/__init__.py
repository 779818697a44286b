"""What must still hold after a rewrite: rows, alt texts, keys, names; see `compare`.

figures/ and tables/ hold the rows that the notebooks showed, replayed from stored rows;
values of live columns (lists.json) were measured, so only their names are pinned.
renames.json says what a pinned column is called now: for every figure under "*", or
under the figure's name; a value is the new name, or [new name, factor] where the new
number is the old one times factor.
"""

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_float_dtype, is_numeric_dtype

HERE = Path(__file__).parent
TIGHT = 1e-9  # relative: same numbers, computed again
LOOSE = 1e-3  # relative: computed by torch, with other threads or on other machines


def pinned(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The pinned rows of a figure or table, and which columns are live and loose."""
    lists = json.loads((HERE / "lists.json").read_text(encoding="utf-8"))
    for kind in ("figures", "tables"):
        if name in lists[kind] and (path := HERE / kind / f"{name}.csv").exists():
            return read(path), lists[kind][name]
    raise KeyError(f"no rows of {name!r} are pinned")


def compare(name: str, rows: pd.DataFrame) -> list[str]:
    """What pinned columns and values of a figure are missing or differ, in words.

    Neither the order of rows matters, nor more rows and columns than are pinned.
    """
    old, entry = pinned(name)
    renames = json.loads((HERE / "renames.json").read_text(encoding="utf-8"))
    return differences(
        old, rows, renames.get("*", {}) | renames.get(name, {}), **tolerance(entry)
    )


def untold(name: str, alt: str) -> list[str]:
    """The numbers of a figure's pinned alt text that `alt` no longer tells."""
    alts = json.loads((HERE / "alt.json").read_text(encoding="utf-8"))
    return list((numbers(alts[name]["alt"]) - numbers(alt)).elements())


def numbers(text: str) -> Counter[str]:
    """The numbers of a text as they are written, without commas between digits."""
    return Counter(re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d)", "", text)))


def tolerance(entry: dict[str, Any]) -> dict[str, Any]:
    return {"live": entry["live"], "loose": entry["loose"]}


def differences(
    old: pd.DataFrame,
    new: pd.DataFrame,
    renames: dict[str, Any],
    live: list[str] | tuple[()] = (),
    loose: list[str] | tuple[()] = (),
) -> list[str]:
    """See `compare`; old: pinned rows, new: any rows, renames: old name to new."""
    old, new = read(text_of(old)), renamed(read(text_of(new)), old, renames)
    found = [f"column {c!r} is missing" for c in old if c not in new]
    shared = [c for c in old if c in new and c not in live]
    if len(new) > len(old):
        new = among(new, old, [c for c in shared if not is_float_dtype(old[c])])
    if len(old) != len(new) and shared:
        return [*found, f"{len(new)} rows, not {len(old)}"]
    if not shared:
        return found
    old, new = in_order(old[shared], new[shared])
    for column in shared:
        off = far(old[column], new[column])
        if off > (LOOSE if column in loose else TIGHT):
            found.append(difference(column, off, old[column], new[column]))
    return found


def among(new: pd.DataFrame, old: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The new rows that have the words and whole numbers of a pinned one."""
    wanted = set(words(old[keys]))
    return new[[row in wanted for row in words(new[keys])]]


def words(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """Rows as texts; whole numbers are the same where gaps have made them floats."""
    numbers = rows.select_dtypes("number").astype(float)
    return list(rows.assign(**numbers).astype(str).itertuples(index=False, name=None))


def difference(column: str, off: float, old: pd.Series, new: pd.Series) -> str:
    at = next(n for n in range(len(old)) if far(old[n : n + 1], new[n : n + 1]) == off)
    return f"{column!r} differs by {off:.2g}: {new.iloc[at]}, not {old.iloc[at]}"


def read(path: Any) -> pd.DataFrame:
    """A CSV as both sides of every comparison are read."""
    return pd.read_csv(path)


def text_of(rows: pd.DataFrame) -> io.StringIO:
    """As CSV, so that both sides of a comparison have the types that a file has."""
    return io.StringIO(rows.to_csv(index=False))


def renamed(
    new: pd.DataFrame, old: pd.DataFrame, renames: dict[str, Any]
) -> pd.DataFrame:
    """The new rows under the pinned names, in the pinned units."""
    found = {}
    for column in old:
        name, factor = column, 1
        if column in renames:
            told = renames[column]
            name, factor = (told, 1) if isinstance(told, str) else told
        if name in new:
            found[column] = new[name] / factor if factor != 1 else new[name]
    return pd.DataFrame(found)


def in_order(old: pd.DataFrame, new: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both sorted by what they share: words and whole numbers first, then floats."""
    floats = [c for c in old if is_float_dtype(old[c]) or is_float_dtype(new[c])]
    keys = [c for c in old if c not in floats and same_values(old[c], new[c])]
    by = [*keys, *floats, *(c for c in old if c not in {*keys, *floats})]

    def ordered(rows: pd.DataFrame) -> pd.DataFrame:
        rough = rows.assign(
            **{c: rows[c].map("{:.6g}".format).astype(float) for c in floats}
        )
        places = rough.astype({c: str for c in by if c not in floats})
        return rows.loc[places.sort_values(by, kind="stable").index]

    return ordered(old).reset_index(drop=True), ordered(new).reset_index(drop=True)


def same_values(a: pd.Series, b: pd.Series) -> bool:
    return sorted(map(str, a)) == sorted(map(str, b))


def far(a: pd.Series, b: pd.Series) -> float:
    """The largest relative difference; inf where words, or what is missing, differ."""
    if not (is_number(a) and is_number(b)):
        return 0.0 if list(map(str, a)) == list(map(str, b)) else np.inf
    x, y = a.to_numpy(float), b.to_numpy(float)
    if (np.isnan(x) != np.isnan(y)).any():
        return np.inf
    same = (x == y) | np.isnan(x)
    if same.all():
        return 0.0
    x, y = x[~same], y[~same]
    off = np.abs(x - y) / np.maximum(np.abs(x), np.abs(y))
    return float(np.where(np.isnan(off), np.inf, off).max())


def is_number(column: pd.Series) -> bool:
    return is_numeric_dtype(column) and not is_bool_dtype(column)
