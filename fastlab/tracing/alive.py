"""What a watched pass holds in memory: activations alive at once, and its cache."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import Any

from torch import Tensor

from fastlab.tracing.alike import number_of
from fastlab.tracing.sizes import Fitter
from fastlab.tracing.watch import Watch


def live_terms(watches: list[Watch], fitter: Fitter, eager: bool) -> list[Any]:
    """Bytes alive after each event, as terms; only those that may be the most.

    eager: with what attention holds in eager kernels.
    """
    lives = [[one for one in watch.lives if eager or not one[3]] for watch in watches]
    if len({len(one) for one in lives}) > 1:  # loops: the most that each pass held
        most = [_most(w.count, one) for w, one in zip(watches, lives, strict=True)]
        return [fitter.terms(most)]
    events = watches[0].count
    change: list[Counter[int]] = [Counter() for _ in range(events + 2)]
    for same in zip(*lives, strict=True):
        first, last = same[0][0], same[0][1] if same[0][1] >= 0 else events
        for c, name in fitter.terms([life[2] for life in same]):
            change[first][name] += c
            change[max(last, first + 1)][name] -= c
    alive: Counter[int] = Counter()
    found: list[dict[int, int]] = []
    for more in change:
        alive.update(more)
        now = {name: c for name, c in alive.items() if c > 0}
        if not any(_covers(one, now) for one in found):
            found = [one for one in found if not _covers(now, one)] + [now]
    return [[[c, name] for name, c in sorted(one.items())] for one in found]


def _covers(one: dict[int, int], other: dict[int, int]) -> bool:
    return all(one.get(name, 0) >= c for name, c in other.items())


def _most(count: int, lives: list[list[int]]) -> int:
    change = [0] * (count + 2)
    for first, last, size, _ in lives:
        change[first] += size
        change[max(last if last >= 0 else count, first + 1)] -= size
    return max(accumulate(change))


def held(cache: Any, watch: Watch) -> list[tuple[int, int, int]]:
    """(layers, bytes, bytes of its memory) of every tensor that a cache holds.

    A window is a view: the memory of all keys that were there stays. A cache that is a
    list holds states of all layers together (RWKV).
    """
    makers = {number_of(part.layer)[1]: part for part in watch.parts if part.layer}
    keepers = {} if isinstance(cache, list) else makers | watch.keepers
    calls = {n: part.calls for n, part in keepers.items()}
    found = []
    inner_caches = [
        getattr(cache, f"{n}_attention_cache", None) for n in ("self", "cross")
    ]
    lists = [layers for one in (cache, *inner_caches) for layers in lists_of(one)]
    for index, layer in [pair for layers in lists for pair in enumerate(layers)]:
        own = [layer] if isinstance(layer, (Tensor, list)) else vars(layer).values()
        for value in own:
            inner = value if isinstance(value, (list, tuple)) else [value]
            inner = [*value.values()] if isinstance(value, dict) else inner
            found += [
                (calls.get(index, 1), x.nbytes, x.untyped_storage().nbytes())
                for x in inner
                if isinstance(x, Tensor) and x.dim() > 0 and x.numel()
            ]
    return found


def lists_of(cache: Any) -> list[Any]:
    """Lists with an entry a layer: a cache's layers, and other states."""
    if isinstance(cache, list):
        return [cache]
    return [
        x for x in getattr(cache, "__dict__", {}).values() if isinstance(x, list) and x
    ]


def cached_terms(caches: list[list[Any]], fitter: Fitter) -> list[Any]:
    """[layers, bytes, bytes of memory] of a cache's tensors, bytes as terms."""
    together = len({len(one) for one in caches}) > 1  # more of them in longer passes
    if together:
        each = [[[n * x for x in sizes] for n, *sizes in one] for one in caches]
        caches = [[(1, *map(sum, zip(*one, strict=True)))] for one in each]
    found = [
        (same[0][0], [*zip(*same, strict=True)][1:])
        for same in zip(*caches, strict=True)
    ]
    return [[n, *(fitter.terms(x, together) for x in sizes)] for n, sizes in found]
