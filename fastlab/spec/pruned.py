"""A transformers config of any family, and what pruning leaves of it. No torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from fastlab.spec.pruning import Pruning, left, placed, pruned_heads

# What families call their sizes, where transformers' own map of names does not say.
KV_HEADS = ("num_key_value_heads", "num_kv_heads")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
FFN = (
    *("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "hidden_dim"),
    *("intermediate_size_mlp", "shared_intermediate_size", "moe_intermediate_size"),
    *("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"),
)
DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers")  # layers without experts


def units(config: Any, axis: str) -> dict[str, int]:
    """How many units of "heads" (groups), "hidden", "ffn" or "experts" there are.

    ffn and experts by the config's fields for them: there can be several, and none. An
    FFN's width that is left None is 4 x hidden, as transformers takes it.
    """
    fields, hidden = config.to_dict(), config.hidden_size
    if axis == "hidden":
        return {"hidden": hidden}
    names = {"heads": KV_HEADS, "ffn": FFN, "experts": EXPERTS}[axis]
    usual = 4 * hidden if axis == "ffn" else None
    found = {n: usual if fields[n] is None else fields[n] for n in names if n in fields}
    sizes = {name: n for name, n in found.items() if type(n) is int and n > 0}
    if axis == "heads":
        return {"heads": min(sizes.values(), default=config.num_attention_heads)}
    return sizes


def head_width(config: Any) -> dict[str, int]:
    """{"head_dim": width} where heads have a width of their own, else {}.

    A field for it, or for key / value heads, says so; whether the model really heeds it
    is seen when the map is derived.
    """
    fields = config.to_dict()
    if "head_dim" not in fields and KV_HEADS[0] not in fields:
        return {}
    width = fields.get("head_dim") or config.hidden_size // config.num_attention_heads
    return {"head_dim": width}


def resized(config: Any, sizes: Mapping[str, Any]) -> Any:
    """A copy of a config with fields replaced; ValueError where it cannot say them."""
    new = copy.deepcopy(config)
    try:
        for name, value in sizes.items():
            setattr(new, name, value)
        new.validate()
    except Exception as error:  # each class has its own
        raise refused(config, "config cannot say what is left", error) from error
    return new


def refused(config: Any, why: str, error: Exception | str) -> ValueError:
    """One line for a family that cannot be pruned so, with the error's last line."""
    last = str(error).strip().rpartition("\n")[2].strip().removeprefix("ValueError: ")
    return ValueError(f"model_type={config.model_type!r}: its {why}: {last}")


def group_sizes(config: Any, groups: int) -> dict[str, int]:
    """The fields of that many groups: a key / value head and its query heads each."""
    fields, each = config.to_dict(), config.num_attention_heads // groups_of(config)
    named = {name: groups for name in KV_HEADS if fields.get(name)}
    return {**named, "num_attention_heads": groups * each}


def groups_of(config: Any) -> int:
    """Key / value heads, each with the query heads that read it."""
    return units(config, "heads")["heads"]


def layer_sizes(config: Any, layers: Sequence[int]) -> dict[str, Any]:
    """The fields of a config that keeps these layers; lists go with their layers."""
    have = config.num_hidden_layers
    sizes: dict[str, Any] = {"num_hidden_layers": len(layers)}
    for name, value in config.to_dict().items():
        if name in DENSE_FIRST and type(value) is int:
            sizes[name] = sum(layer < value for layer in layers)
        if not isinstance(value, list) or not value or name.endswith(("_id", "_ids")):
            continue
        if _numbers_layers(name, value, have):
            sizes[name] = [layers.index(n) for n in value if n in layers]
        elif len(value) == have and name != "architectures":
            sizes[name] = [value[layer] for layer in layers]
    return sizes


def _numbers_layers(name: str, value: list[Any], have: int) -> bool:
    """Whether a list holds layers' numbers, not something for each layer."""
    if not ("layer" in name or "idx" in name or "indices" in name):
        return False
    whole = all(type(n) is int and 0 <= n < have for n in value)
    return whole and value == sorted(set(value)) and value != [0, 1][:have]


def pruned_config(
    config: Any, pruning: Pruning, layers: Sequence[int] | None = None
) -> Any:
    """The config of a transformers model after pruning; the given one stays.

    layers: those that are kept; None = as `layer_choice` places them, evenly where it
    must be measured. Raises ValueError where a share cuts nothing, where the config has
    no field for what is cut, or where its class refuses what is left.
    """
    have = config.num_hidden_layers
    if layers is None:
        count = left("layers", have, pruning.layers)
        layers = placed(have, count, pruning.layer_choice)
    sizes = layer_sizes(config, layers) if pruning.layers else {}
    for axis, step in (("ffn", pruning.multiple), ("experts", 1)):
        share, fields = getattr(pruning, axis), units(config, axis)
        if share and not fields:
            raise refused(config, f"config has no field for {axis}", f"{axis}={share}")
        sizes |= {n: left(axis, v, share, step) for n, v in fields.items() if share}
    if pruning.experts:
        _check_experts(config, sizes)
    if pruning.hidden and not pruning.ffn:  # stays, where it would follow hidden
        sizes |= units(config, "ffn")
    if not (pruning.heads or pruning.hidden):
        return resized(config, sizes)
    try:
        return resized(config, sizes | _width_sizes(config, pruning, False))
    except ValueError:
        if not (head_width(config) and pruning.hidden):
            raise
        return resized(config, sizes | _width_sizes(config, pruning, True))


def _check_experts(config: Any, sizes: Mapping[str, int]) -> None:
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    if (getattr(config, "n_group", None) or 1) > 1:
        raise refused(
            config, "experts are chosen by groups", f"n_group={config.n_group}"
        )
    for name in units(config, "experts"):
        if sizes[name] < chosen:
            raise refused(
                config, f"tokens choose {chosen} experts", f"{sizes[name]} left"
            )


def _width_sizes(config: Any, pruning: Pruning, divides: bool) -> dict[str, int]:
    """hidden, heads and their width; divides: heads must divide hidden."""
    before = {"hidden": config.hidden_size, "heads": config.num_attention_heads}
    before["kv_heads"], width = groups_of(config), head_width(config)
    before["head_dim"] = width.get("head_dim", before["hidden"] // before["heads"])
    after = pruned_heads(before, pruning, config.model_type, bool(width), divides)
    sizes = group_sizes(config, after["kv_heads"]) if pruning.heads else {}
    return {**sizes, **width, "hidden_size": after["hidden"]}
