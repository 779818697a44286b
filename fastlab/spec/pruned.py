"""A transformers config of any family, and what pruning leaves of it. No torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from fastlab.spec.pruning import Pruning, left, placed, pruned_heads

SIZES = {  # fields of a shape by what configs call them, the usual name first
    "layers": ("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    "hidden": ("hidden_size", "d_model", "n_embd"),
    "heads": ("num_attention_heads", "num_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim",),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "vocab": ("vocab_size",),
    "max_positions": ("max_position_embeddings", "n_positions", "max_seq_len"),
    "tied": ("tie_word_embeddings",),
}
KV_HEADS = SIZES["kv_heads"]
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
FFN = (  # all widths that are cut by one share
    *(*SIZES["ffn"], "hidden_dim", "intermediate_size_mlp", "moe_intermediate_size"),
    *("shared_intermediate_size", "shared_expert_intermediate_size"),
    "moe_shared_expert_intermediate_size",
)
PER_LAYER = "per_layer_config"  # {layer: what differs there from the others}
SHARED = "num_kv_shared_layers"  # the last ones, which keep no keys and values
DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers")  # layers without experts


def refused(config: Any, why: str, what: Exception | str | int) -> ValueError:
    """One line for what cannot be done to a family, with an error's last line."""
    last = str(what).strip().rpartition("\n")[2].strip().removeprefix("ValueError: ")
    return ValueError(f"model_type={config.model_type!r}: its {why}: {last}")


def units(config: Any, axis: str) -> dict[str, int]:
    """How many units of "heads" (groups), "hidden", "ffn" or "experts" there are.

    ffn and experts by the config's fields for them: there can be several, and none. An
    FFN's width that is left None is 4 x hidden, as transformers takes it.
    """
    fields, usual = config.to_dict(), 4 * config.hidden_size if axis == "ffn" else 0
    if axis == "hidden":
        return {"hidden": config.hidden_size}
    names = {"heads": KV_HEADS, "ffn": FFN, "experts": EXPERTS}[axis]
    found = {n: usual if fields[n] is None else fields[n] for n in names if n in fields}
    sizes = {name: n for name, n in found.items() if type(n) is int and n > 0}
    if axis == "heads":
        return {"heads": min(sizes.values(), default=config.num_attention_heads)}
    return sizes


def group_sizes(config: Any, groups: int) -> dict[str, int]:
    """The fields of that many groups: a key / value head and its query heads each."""
    fields, have = config.to_dict(), units(config, "heads")["heads"]
    heads = {"num_attention_heads": config.num_attention_heads // have * groups}
    return heads | {name: groups for name in KV_HEADS if fields.get(name)}


def head_width(config: Any) -> dict[str, int]:
    """{"head_dim": width} where a config can say it apart from hidden, else {}.

    It can where it has a field for it, or for key / value heads. Whether its models
    heed it is seen when their map is derived. Not where it differs by layer.
    """
    fields, usual = config.to_dict(), config.hidden_size // config.num_attention_heads
    differs = any("head_dim" in own for own in (fields.get(PER_LAYER) or {}).values())
    apart = not differs and ("head_dim" in fields or KV_HEADS[0] in fields)
    return {"head_dim": fields.get("head_dim") or usual} if apart else {}


def resized(config: Any, sizes: Mapping[str, Any]) -> Any:
    """A copy of a config with fields replaced; ValueError where it cannot say them."""
    new = copy.deepcopy(config)
    try:
        for name, value in sizes.items():
            setattr(new, name, value)
        new.validate()
    except Exception as error:  # classes have errors of their own
        raise refused(config, "config cannot say what is left", error) from error
    return new


def kinds_of(fields: dict[str, Any], have: int) -> dict[str, list[Any]]:
    """What fields of a config say of each of the layers that it has.

    Those are lists of a value for each layer, or of ascending numbers of some; not what
    has as many entries by chance: numbers of tokens, limits, factors.
    """
    found: dict[str, list[Any]] = {}
    other = ("_id", "_ids", "architectures", "_limit", "_multipliers")
    for name, value in fields.items():
        if name in DENSE_FIRST and value:
            found[name] = [layer < value for layer in range(have)]
        if name == SHARED and value:
            found[name] = [layer >= have - value for layer in range(have)]
        if name == PER_LAYER and value:
            own = {int(layer): one for layer, one in value.items()}
            found[name] = [own.get(layer, {}) for layer in range(have)]
        if not isinstance(value, list) or name.endswith(other):
            continue
        some = "layer" in name or "idx" in name
        whole = some and all(type(n) is int and 0 <= n < have for n in value)
        if whole and value == sorted(set(value)):
            found[name] = [layer in value for layer in range(have)]
        elif len(value) == have:
            found[name] = value
    return found


def layer_sizes(config: Any, layers: Sequence[int]) -> dict[str, Any]:
    """The fields of a config of these of its layers: what it says of each goes too."""
    sizes: dict[str, Any] = {"num_hidden_layers": len(layers)}
    fields, have = config.to_dict(), config.num_hidden_layers
    for name, kinds in kinds_of(fields, have).items():
        kept, value = [kinds[layer] for layer in layers], fields[name]
        if isinstance(value, int):
            sizes[name] = min(value, sum(kept))
        elif name == PER_LAYER:
            sizes[name] = {n: own for n, own in enumerate(kept) if own}
        else:
            sizes[name] = (
                kept if kinds is value else [n for n, x in enumerate(kept) if x]
            )
    return sizes


def pruned_config(
    config: Any, pruning: Pruning, layers: Sequence[int] | None = None
) -> Any:
    """The config of a transformers model after pruning; the given one stays.

    layers: those that are kept; None = as `layer_choice` places them, evenly where it
    must be measured. Raises ValueError where a share cuts nothing, where the config has
    no field for what is cut, or where its class refuses what is left.
    """
    have, sizes = config.num_hidden_layers, dict[str, Any]()
    if layers is None:
        count = left("layers", have, pruning.layers)
        layers = placed(have, count, pruning.layer_choice)
    if pruning.layers:
        sizes = layer_sizes(config, layers)
    for axis, step in (("ffn", pruning.multiple), ("experts", 1)):
        share, fields = getattr(pruning, axis), units(config, axis)
        if share and not fields:
            raise refused(config, f"config has no field for {axis}", f"{axis}={share}")
        sizes |= {n: left(axis, v, share, step) for n, v in fields.items() if share}
    if pruning.experts:
        _check_experts(config, min(sizes[name] for name in units(config, "experts")))
    if pruning.heads or pruning.hidden:
        sizes = units(config, "ffn") | sizes | _widths(config, pruning)
    return resized(config, sizes)


def _check_experts(config: Any, count: int) -> None:
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    if (groups := getattr(config, "n_group", None) or 1) > 1:
        raise refused(config, "experts are chosen by groups, n_group", groups)
    if count < chosen:
        raise refused(config, f"tokens choose {chosen} experts, more than", count)


def _widths(config: Any, pruning: Pruning) -> dict[str, int]:
    """The fields for hidden, heads and their width, which stays."""
    if not getattr(config, "num_attention_heads", 0):
        raise refused(config, "config has no field for", "heads")
    width, family = head_width(config), config.model_type
    before = {"hidden": config.hidden_size, "heads": config.num_attention_heads}
    before["kv_heads"] = units(config, "heads")["heads"]
    before["head_dim"] = width.get("head_dim", before["hidden"] // before["heads"])
    after = pruned_heads(before, pruning, family, bool(width))
    sizes = group_sizes(config, after["kv_heads"]) if pruning.heads else {}
    return {**sizes, **width, "hidden_size": after["hidden"]}
