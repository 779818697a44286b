"""Weights that others quantized: what a `quantization_config` says of them. No torch.

Of each method the tensors of one matrix, in the files and on a device. What takes no
room there (bitsandbytes' words of JSON, shapes, flags) is left out, and so are biases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastlab.spec.checks import check_choice, check_count
from fastlab.spec.recipe import weights_of
from fastlab.spec.shape import ModelShape

LAYERS = r".*\.\d+\.|$"  # modules in the layers; a name that is not given is one


@dataclass(frozen=True)
class Layout:
    """How one matrix (n outputs, k inputs) is stored.

    block: outputs and inputs that share a scale, 0 = all there are; flat: so many
    weights in a row do. scale: bytes a block; nested: so many scales share one in fp32.
    zero: bits of a block's zero point. index: bytes an input, of the group that it is
    in. extra: bytes once, of tables and of scales of the whole.
    """

    kind: str
    bits: int
    block: tuple[int, int] = (1, 0)
    scale: int = 2
    zero: int = 0
    index: int = 0
    extra: int = 0
    flat: bool = False
    nested: int = 0

    def bytes(self, n: int, k: int) -> int:
        """Bytes of codes, scales, zero points, index and tables together."""
        rows, columns = self.block
        outer, inner = _ceil(n, rows or n), _ceil(k, columns or k)
        blocks = _ceil(n * k, columns) if self.flat else outer * inner
        second = 4 * _ceil(blocks, self.nested) if self.nested else 0
        scales = blocks * self.scale + second + inner * _ceil(outer * self.zero, 8)
        return _ceil(n * k * self.bits, 8) + scales + self.index * k + self.extra

    @property
    def label(self) -> str:
        """ "int4-g128", "fp8-128x128", "nf4-g64", "int8"."""
        rows, columns = self.block
        group = f"{rows}x{columns}" if rows > 1 else f"g{columns}" if columns else ""
        return f"{self.kind}-{group}" if group else self.kind


Rules = Iterator[tuple[str, Layout | None]]  # the first whose pattern matches a name


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


@dataclass(frozen=True)
class Published:
    """The stored form of a model's matrices.

    packages: what transformers needs to run it, imported by these names with _ for -.
    """

    method: str
    packages: tuple[str, ...]
    rules: tuple[tuple[str, Layout | None], ...]

    def layout(self, name: str = "") -> Layout | None:
        """Of a module by its whole name ("model.layers.0.mlp.up_proj", "lm_head").

        None where it stays dense; without a name, of any in the layers.
        """
        found = (made for pattern, made in self.rules if re.match(pattern, name))
        return next(found, None)

    def linear_bytes(self, n: int, k: int, name: str = "", value: int = 2) -> int:
        """Bytes of a matrix (n outputs, k inputs); of `value` a weight where dense."""
        layout = self.layout(name)
        return layout.bytes(n, k) if layout else n * k * value

    @property
    def label(self) -> str:
        """A few words for tables: "gptq int4-g128"."""
        made = next((made.label for _, made in self.rules if made), "dense")
        return made if made.startswith(self.method) else f"{self.method} {made}"


def read(config: Mapping[str, Any]) -> Published:
    """A `quantization_config`, checked.

    Raises ValueError for a method that is not known, and for values that no model has.
    """
    try:
        four = config.get("load_in_4bit") or config.get("load_in_8bit")
        method = config.get("quant_method", "bitsandbytes" if four else None)
        check_choice("quant_method", method, METHODS)
        reader, packages = METHODS[method]
        rules = tuple(reader(config))
        for pattern, _ in rules:
            re.compile(pattern)
    except (AttributeError, KeyError, TypeError, re.error) as error:
        raise ValueError(f"quantization_config={config!r}: {error}") from error
    return Published(method, packages, rules)


def stored_linear_bytes(
    config: Mapping[str, Any], n: int, k: int, name: str = "", value: int = 2
) -> int:
    """Bytes of a matrix (n, k) under a `quantization_config`: see Published."""
    return read(config).linear_bytes(n, k, name, value)


# Family -> where its layers are, and in one of them the matrices of `weights_of`.
_OWN = {n: f"self_attn.{n}_proj" for n in "qkv"} | {"out": "self_attn.o_proj"}
_OWN |= {f"mlp.{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")}
_QKV = {
    n: f"attention.self.{w}"
    for n, w in zip("qkv", ("query", "key", "value"), strict=True)
}
_NAMES = {
    **dict.fromkeys(("llama", "qwen3"), ("model.layers", _OWN)),
    "gpt2": (
        "transformer.h",
        {"qkv": "attn.c_attn", "out": "attn.c_proj"}
        | {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"},
    ),
    "bert": (
        "bert.encoder.layer",
        {**_QKV, "out": "attention.output.dense"}
        | {"mlp.up": "intermediate.dense", "mlp.down": "output.dense"},
    ),
}


def matrix_bytes(config: Mapping[str, Any], shape: ModelShape, value: int = 2) -> int:
    """Bytes of the matrices of all layers, and of a head that is not tied.

    gpt2, llama, qwen3 and bert; `value` of a dense weight.
    """
    made, (stack, names) = read(config), _NAMES[shape.family]
    head = made.linear_bytes(shape.vocab, shape.hidden, "lm_head", value)
    return (0 if shape.tied else head) + sum(
        made.linear_bytes(n, k, f"{stack}.{layer}.{names[own]}", value)
        for layer in range(shape.layers)
        for own, n, k in weights_of(shape)
    )


def _bits(config: Mapping[str, Any], name: str, most: int = 8) -> int:
    check_count(name, bits := config.get(name, 4), 2, most)
    return int(bits)


def _group(config: Mapping[str, Any], usual: int = 128) -> int:
    """Inputs that share a scale, 0 = all."""
    check_count("group_size", group := config.get("group_size", usual), -1)
    return max(0, group)


def _but(keys: list[str] | None, made: Layout, where: str = "") -> Rules:
    """All modules but those whose name begins or ends so; without a list, the head."""
    for key in keys or ():
        yield rf"(?:{key})(?:(?<=\.)|(?=\.|$))|.*{re.escape(key)}$", None
    yield where or (LAYERS if keys is None else ""), made


def _gptq(config: Mapping[str, Any]) -> Rules:
    """qweight, scales and, but for marlin's, qzeros and the group of each input."""
    formats = config.get("checkpoint_format"), config.get("format")

    more = "marlin" not in formats

    def layout(own: Mapping[str, Any]) -> Layout:
        bits, block = _bits(own, "bits"), (1, _group(own))
        return Layout(f"int{bits}", bits, block, zero=bits * more, index=4 * more)

    for rule, own in (config.get("dynamic") or {}).items():
        sign, _, pattern = rule.rpartition(":")
        yield pattern, None if sign == "-" else layout({**config, **own})
    if config.get("lm_head"):
        yield "lm_head$", layout(config)
    inside = config.get("modules_in_block_to_quantize") or [[""]]
    names = "|".join(re.escape(name) for names in inside for name in names)
    yield rf"(?:.*\.\d+\..*(?:{names})|)$", layout(config)


def _awq(config: Mapping[str, Any]) -> Rules:
    """qweight, scales and qzeros, these also where zero_point is false."""
    bits = _bits(config, "bits")
    check_choice("version", str(config.get("version", "gemm")).lower(), ("gemm",))
    made = Layout(f"int{bits}", bits, (1, _group(config)), zero=bits)
    return _but(config.get("modules_to_not_convert"), made, LAYERS)


def _bitsandbytes(config: Mapping[str, Any]) -> Rules:
    """4 bits: a scale for 64 weights in a row and the table of 16 values, in fp32.

    Double quantized, those scales are bytes, 256 of them share one in fp32, and there
    is a table of 256 values. 8 bits: a scale in fp32 for each output.
    """
    made = Layout("int8", 8, scale=4)
    if config.get("load_in_4bit") or config.get("_load_in_4bit"):
        kind = config.get("bnb_4bit_quant_type", "fp4")
        check_choice("bnb_4bit_quant_type", kind, ("fp4", "nf4"))
        made = Layout(kind, 4, (1, 64), scale=4, extra=4 * 16, flat=True)
        if config.get("bnb_4bit_use_double_quant"):
            made = replace(made, scale=1, nested=256, extra=4 * (16 + 256))
    return _but(config.get("llm_int8_skip_modules"), made)


def _fp8(config: Mapping[str, Any]) -> Rules:
    """A scale in fp32, of a block or of all; activations have one where static."""
    block = config.get("weight_block_size") or (0, 0)
    for size in block:
        check_count("weight_block_size", size, 0)
    static = 4 * (config.get("activation_scheme") == "static")
    made = Layout("fp8", 8, (block[0], block[1]), scale=4, extra=static)
    return _but(config.get("modules_to_not_convert"), made)


def _fbgemm(config: Mapping[str, Any]) -> Rules:
    """A scale in fp32 for each output."""
    made = Layout("fp8", 8, scale=4)
    return _but(config.get("modules_to_not_convert"), made)


def _mxfp4(config: Mapping[str, Any]) -> Rules:
    """Experts alone: 32 inputs share an exponent of one byte."""
    made = Layout("mxfp4", 4, (1, 32), scale=1)
    return _but(config.get("modules_to_not_convert"), made, r".*experts\b")


def _compressed(config: Mapping[str, Any]) -> Rules:
    """A module is stored as the first of `config_groups` that targets it says.

    A target is the class, an expression, or the whole name of a module.
    """
    groups: list[tuple[Any, Layout | None]] = [(config.get("ignore") or (), None)]
    for group in config["config_groups"].values():
        form = group.get("format") or config["format"]
        groups.append((group["targets"], _scheme(group, form)))
    for keys, made in groups:
        for key in keys:
            whole = "" if key == "Linear" else f"{re.escape(key)}$"
            yield key[3:] if key.startswith("re:") else whole, made


def _scheme(group: Mapping[str, Any], form: str) -> Layout | None:
    """Scales in 16 bit; zero points, where not symmetric, packed like the codes."""
    own, inputs = group.get("weights"), group.get("input_activations") or {}
    if own is None or form == "dense":
        return None
    if form == "nvfp4-pack-quantized":  # scales in fp8, of the whole in fp32
        return Layout("nvfp4", 4, (1, 16), scale=1, extra=8 if inputs else 4)
    packed, allowed = "pack-quantized", ("float-quantized", "int-quantized")
    check_choice("format", form, (packed, *allowed, "naive-quantized"))
    bits, block = _bits(own, "num_bits"), own.get("block_structure") or (0, 0)
    blocks = {"tensor": (0, 0), "channel": (1, 0), "block": (block[0], block[1])}
    blocks["group"] = (1, _group(own))
    check_choice("strategy", strategy := own.get("strategy", "tensor"), blocks)
    held = bits if form == packed else 8
    return Layout(
        f"{'fp' if own.get('type') == 'float' else 'int'}{bits}",
        held,
        blocks[strategy],
        zero=0 if own.get("symmetric", True) else held,
        index=4 * (own.get("actorder") == "group"),
        extra=2 * (inputs.get("dynamic") is False),
    )


METHODS: dict[str, tuple[Callable[[Mapping[str, Any]], Rules], tuple[str, ...]]] = {
    "gptq": (_gptq, ("gptqmodel", "optimum")),
    "awq": (_awq, ("gptqmodel", "accelerate")),
    "bitsandbytes": (_bitsandbytes, ("bitsandbytes", "accelerate")),
    "fp8": (_fp8, ("accelerate",)),
    "fbgemm_fp8": (_fbgemm, ("fbgemm-gpu", "accelerate")),
    "compressed-tensors": (_compressed, ("compressed-tensors",)),
    "mxfp4": (_mxfp4, ("accelerate",)),
}
