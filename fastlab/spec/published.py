"""Weights that others quantized: what a `quantization_config` says of them. No torch.

Of each method the tensors of one matrix (n outputs, k inputs) in the files and on a
device. bitsandbytes' words of JSON, shapes and flags are left out, and so are biases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fastlab.spec.checks import check_choice, check_count
from fastlab.spec.recipe import weights_of
from fastlab.spec.shape import ModelShape

Config = Mapping[str, Any]
Layout = tuple[str, Callable[[int, int], int]]  # its label; (n, k) -> bytes
Rules = Iterator[tuple[str, Layout | None]]  # the first whose pattern matches a name
LAYERS = r".*\.\d+\.|$"  # modules in the layers; a name that is not given is one


class Published(NamedTuple):
    """How a model's matrices are stored.

    packages: what transformers needs to run it, imported by these names with _ for -.
    """

    method: str
    packages: tuple[str, ...]
    rules: tuple[tuple[str, Layout | None], ...]

    def layout(self, name: str = "") -> Layout | None:
        """Of a module by its whole name ("model.layers.0.mlp.up_proj", "lm_head").

        None where it stays dense; without a name, of any in the layers.
        """
        return next((made for rule, made in self.rules if re.match(rule, name)), None)

    def linear_bytes(self, n: int, k: int, name: str = "", value: int = 2) -> int:
        """Bytes of a matrix (n outputs, k inputs); of `value` a weight where dense."""
        layout = self.layout(name)
        return layout[1](n, k) if layout else n * k * value

    @property
    def label(self) -> str:
        """A few words for tables: "gptq int4-g128"."""
        made = next((made[0] for _, made in self.rules if made), "dense")
        return made if made.startswith(self.method) else f"{self.method} {made}"


def read(config: Config) -> Published:
    """A `quantization_config`, checked.

    Raises ValueError for a method that is not known, and for values that no model has.
    """
    try:
        old = config.get("load_in_4bit") or config.get("load_in_8bit")
        method = config.get("quant_method", "bitsandbytes" if old else None)
        check_choice("quant_method", method, METHODS)
        reader, *packages = METHODS[method]
        rules = tuple((re.compile(rule).pattern, made) for rule, made in reader(config))
    except (AttributeError, KeyError, TypeError, re.error) as error:
        raise ValueError(f"quantization_config={config!r}: {error}") from error
    return Published(method, tuple(packages), rules)


def stored_linear_bytes(
    config: Config, n: int, k: int, name: str = "", value: int = 2
) -> int:
    """Bytes of a matrix (n, k) under a `quantization_config`: see Published."""
    return read(config).linear_bytes(n, k, name, value)


# Family -> where its layers are, and in one of them the matrices of `weights_of`.
_ATTENTION = (*(f"self_attn.{name}_proj" for name in "qkvo"),)
_LLAMA = *_ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"
_BERT = (*(f"attention.self.{name}" for name in ("query", "key", "value")),)
_OUT = "attention.output.dense", "intermediate.dense", "output.dense"
_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "qwen3"), ("model.layers", *_LLAMA)),
    "gpt2": ("transformer.h", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "bert": ("bert.encoder.layer", *_BERT, *_OUT),
}


def matrix_bytes(config: Config, shape: ModelShape, value: int = 2) -> int:
    """Bytes of the matrices of all layers, and of a head that is not tied.

    gpt2, llama, qwen3 and bert; `value` of a dense weight.
    """
    made, (stack, *names) = read(config), _NAMES[shape.family]
    head = made.linear_bytes(shape.vocab, shape.hidden, "lm_head", value)
    return (0 if shape.tied else head) + sum(
        made.linear_bytes(n, k, f"{stack}.{layer}.{name}", value)
        for layer in range(shape.layers)
        for name, (_, n, k) in zip(names, weights_of(shape), strict=True)
    )


def _bits(config: Config, name: str = "bits") -> int:
    check_count(name, bits := config.get(name, 4), 2, 8)
    return int(bits)


def _group(config: Config) -> tuple[int, str]:
    """Inputs that share a scale, 0 = all; and how a label says it."""
    check_count("group_size", group := config.get("group_size", 128), -1)
    return max(0, group), f"-g{group}" * (group > 0)


def _ceil(count: int, size: int) -> int:
    return -(-count // (size or count))  # 0 = all of them


def _but(keys: list[str] | None, made: Layout, where: str = "") -> Rules:
    """All modules but those whose name begins or ends so; without a list, the head."""
    for key in keys or ():
        yield rf"(?:{key})(?:(?<=\.)|(?=\.|$))|.*{re.escape(key)}$", None
    yield where or (LAYERS if keys is None else ""), made


def _grouped(config: Config, zeros: bool = True, index: bool = True) -> Layout:
    """Codes, scales in 16 bit, zero points as wide as codes, an int32 an input."""
    bits, (group, label) = _bits(config), _group(config)
    scale = 16 + bits * zeros
    return (
        f"int{bits}{label}",
        lambda n, k: (n * k * bits + _ceil(k, group) * n * scale) // 8 + 4 * k * index,
    )


def _gptq(config: Config) -> Rules:
    """qweight, scales and, but for marlin's, qzeros and g_idx."""
    more = "marlin" not in (config.get("checkpoint_format"), config.get("format"))
    for rule, own in (config.get("dynamic") or {}).items():
        sign, _, name = rule.rpartition(":")
        yield name, None if sign == "-" else _grouped({**config, **own}, more, more)
    made = _grouped(config, more, more)
    if config.get("lm_head"):
        yield "lm_head$", made
    inside = config.get("modules_in_block_to_quantize") or [[""]]
    names = "|".join(re.escape(name) for names in inside for name in names)
    yield rf"(?:.*\.\d+\..*(?:{names})|)$", made


def _awq(config: Config) -> Rules:
    """qweight, scales and qzeros, these also where zero_point is false."""
    check_choice("version", str(config.get("version", "gemm")).lower(), ("gemm",))
    made = _grouped(config, index=False)
    return _but(config.get("modules_to_not_convert"), made, LAYERS)


def _bitsandbytes(config: Config) -> Rules:
    """4 bits: a scale for 64 weights in a row and the table of 16 values, in fp32.

    Double quantized, those scales are bytes, 256 of them share one in fp32, and there
    is a table of 256 values. 8 bits: a scale in fp32 for each output.
    """
    twice, kind = (
        config.get(f"bnb_4bit_{n}") for n in ("use_double_quant", "quant_type")
    )

    def four(n: int, k: int) -> int:
        scales = _ceil(n * k, 64)
        own = scales + 4 * (_ceil(scales, 256) + 256) if twice else 4 * scales
        return _ceil(n * k, 2) + own + 4 * 16

    made: Layout = "int8", lambda n, k: n * k + 4 * n
    if config.get("load_in_4bit") or config.get("_load_in_4bit"):
        check_choice("bnb_4bit_quant_type", kind or "fp4", ("fp4", "nf4"))
        made = f"{kind or 'fp4'}-g64", four
    return _but(config.get("llm_int8_skip_modules"), made)


def _fp8(config: Config) -> Rules:
    """Scales in fp32: of blocks, of all or, fbgemm's, of outputs; static: one more."""
    rows, columns = config.get("weight_block_size") or (0, 0)
    for size in (rows, columns):
        check_count("weight_block_size", size, 0)
    label = f"fp8-{rows}x{columns}" if rows else "fp8"
    rows = rows or int(config["quant_method"] == "fbgemm_fp8")
    static = 4 * (config.get("activation_scheme") == "static")
    made: Layout = (
        label,
        lambda n, k: n * k + 4 * _ceil(n, rows) * _ceil(k, columns) + static,
    )
    return _but(config.get("modules_to_not_convert"), made)


def _mxfp4(config: Config) -> Rules:
    """Experts alone: 32 inputs share an exponent of one byte."""
    made: Layout = "mxfp4", lambda n, k: n * (_ceil(k, 2) + _ceil(k, 32))
    return _but(config.get("modules_to_not_convert"), made, r".*experts\b")


def _compressed(config: Config) -> Rules:
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


def _scheme(group: Config, form: str) -> Layout | None:
    """Scales in 16 bit; zero points, where not symmetric, packed like the codes."""
    own, inputs = group.get("weights"), group.get("input_activations") or {}
    if own is None or form == "dense":
        return None
    if form == "nvfp4-pack-quantized":  # scales in fp8, of the whole in fp32
        whole = 8 if inputs else 4
        return "nvfp4", lambda n, k: n * (_ceil(k, 2) + _ceil(k, 16)) + whole
    allowed = ("float-quantized", "int-quantized", "naive-quantized")
    check_choice("format", form, ("pack-quantized", *allowed))
    bits, (group_size, label) = _bits(own, "num_bits"), _group(own)
    square = own.get("block_structure") or (0, 0)
    blocks = {"tensor": (0, 0), "channel": (1, 0), "group": (1, group_size)}
    blocks["block"] = (square[0], square[1])
    check_choice("strategy", strategy := own.get("strategy", "tensor"), blocks)
    rows, columns = blocks[strategy]
    ends = {"group": label, "block": f"-{rows}x{columns}"}
    kind = "fp" if own.get("type") == "float" else "int"
    held = bits if form == "pack-quantized" else 8
    zeros = 0 if own.get("symmetric", True) else held
    index = 4 * (own.get("actorder") == "group")
    static = 2 * (inputs.get("dynamic") is False)
    return (
        f"{kind}{bits}{ends.get(strategy, '')}",
        lambda n, k: (
            _ceil(n * k * held, 8)
            + _ceil(k, columns)
            * (2 * _ceil(n, rows) + _ceil(_ceil(n, rows) * zeros, 8))
            + (index * k + static)
        ),
    )


METHODS: dict[str, Any] = {  # what reads it, and the packages that run it
    "gptq": (_gptq, "gptqmodel", "optimum"),
    "awq": (_awq, "gptqmodel", "accelerate"),
    "bitsandbytes": (_bitsandbytes, "bitsandbytes", "accelerate"),
    "fp8": (_fp8, "accelerate"),
    "fbgemm_fp8": (_fp8, "fbgemm-gpu", "accelerate"),
    "compressed-tensors": (_compressed, "compressed-tensors"),
    "mxfp4": (_mxfp4, "accelerate"),
}
