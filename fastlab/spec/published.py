"""Weights that others quantized: what a `quantization_config` says of them. No torch.

Of each method the tensors of one matrix (n outputs, k inputs) in the files and on a
device. bitsandbytes' words of JSON, shapes and flags are left out, and so are biases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fastlab.spec.checks import check_choice, check_count

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


def _bits(config: Config, name: str = "bits") -> int:
    check_count(name, bits := config.get(name, 4), 2, 8)
    return int(bits)


def _group(config: Config) -> int:
    """Inputs that share a scale, 0 = all."""
    check_count("group_size", group := config.get("group_size", 128), -1)
    return max(0, int(group))


def _ceil(count: int, size: int) -> int:
    return -(-count // (size or count))  # 0 = all of them


def _layout(
    kind: str, bits: int, block: Any = (1, 0), scale: int = 2, **more: int
) -> Layout:
    """Codes, and a scale of so many bytes for each block (outputs, inputs; 0 = all).

    more: zero = bits of a block's zero point; index = bytes an input, of its group;
    extra = bytes of the whole.
    """
    rows, columns = block
    name = f"-{rows}x{columns}" if rows > 1 else f"-g{columns}" if columns else ""

    def stored(n: int, k: int) -> int:
        outer, inner = _ceil(n, rows), _ceil(k, columns)
        scales = outer * scale + _ceil(outer * more.get("zero", 0), 8)
        rest = more.get("index", 0) * k + more.get("extra", 0)
        return _ceil(n * k * bits, 8) + inner * scales + rest

    return kind + name, stored


def _but(keys: list[str] | None, made: Layout, where: str = "") -> Rules:
    """All modules but those whose name begins or ends so; without a list, the head."""
    for key in keys or ():
        yield rf"(?:{key})(?:(?<=\.)|(?=\.|$))|.*{re.escape(key)}$", None
    yield where or (LAYERS if keys is None else ""), made


def _gptq(config: Config) -> Rules:
    """qweight, scales and, but for marlin's, qzeros and g_idx."""
    plain = "marlin" not in (config.get("checkpoint_format"), config.get("format"))

    def layout(own: Config) -> Layout:
        bits, more = _bits(own), {"index": 4 * plain}
        return _layout(f"int{bits}", bits, (1, _group(own)), zero=bits * plain, **more)

    for rule, own in (config.get("dynamic") or {}).items():
        sign, _, name = rule.rpartition(":")
        yield name, None if sign == "-" else layout({**config, **own})
    if config.get("lm_head"):
        yield "lm_head$", layout(config)
    inside = config.get("modules_in_block_to_quantize") or [[""]]
    names = "|".join(re.escape(name) for names in inside for name in names)
    yield rf"(?:.*\.\d+\..*(?:{names})|)$", layout(config)


def _awq(config: Config) -> Rules:
    """qweight, scales and qzeros, these also where zero_point is false."""
    check_choice("version", str(config.get("version", "gemm")).lower(), ("gemm",))
    bits = _bits(config)
    made = _layout(f"int{bits}", bits, (1, _group(config)), zero=bits)
    return _but(config.get("modules_to_not_convert"), made, LAYERS)


def _bitsandbytes(config: Config) -> Rules:
    """4 bits: a scale for 64 weights in a row and the table of 16 values, in fp32.

    Double quantized, those scales are bytes, 256 of them share one in fp32, and there
    is a table of 256 values. 8 bits: a scale in fp32 for each output.
    """
    kind = config.get("bnb_4bit_quant_type") or "fp4"
    check_choice("bnb_4bit_quant_type", kind, ("fp4", "nf4"))

    def four(n: int, k: int) -> int:
        scales = _ceil(n * k, 64)
        twice = config.get("bnb_4bit_use_double_quant")
        own = scales + 4 * (_ceil(scales, 256) + 256) if twice else 4 * scales
        return _ceil(n * k, 2) + own + 4 * 16

    in_four = config.get("load_in_4bit") or config.get("_load_in_4bit")
    made = (f"{kind}-g64", four) if in_four else _layout("int8", 8, scale=4)
    return _but(config.get("llm_int8_skip_modules"), made)


def _fp8(config: Config) -> Rules:
    """Scales in fp32: of blocks, of all or, fbgemm's, of outputs; static: one more."""
    usual = (1, 0) if config["quant_method"] == "fbgemm_fp8" else (0, 0)
    for size in (block := config.get("weight_block_size") or usual):
        check_count("weight_block_size", size, 0)
    static = 4 * (config.get("activation_scheme") == "static")
    made = _layout("fp8", 8, block, 4, extra=static)
    return _but(config.get("modules_to_not_convert"), made)


def _mxfp4(config: Config) -> Rules:
    """Experts alone: 32 inputs share an exponent of one byte."""
    made = _layout("mxfp4", 4, (1, 32), 1)
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
        return _layout("nvfp4", 4, (1, 16), 1, extra=8 if inputs else 4)
    allowed = ("float-quantized", "int-quantized", "naive-quantized")
    check_choice("format", form, ("pack-quantized", *allowed))
    blocks = {"tensor": (0, 0), "channel": (1, 0), "group": (1, _group(own))}
    blocks["block"] = own.get("block_structure") or (0, 0)
    check_choice("strategy", strategy := own.get("strategy", "tensor"), blocks)
    bits = _bits(own, "num_bits")
    kind = f"{'fp' if own.get('type') == 'float' else 'int'}{bits}"
    held = bits if form == "pack-quantized" else 8
    zero = 0 if own.get("symmetric", True) else held
    index = 4 * (own.get("actorder") == "group")
    extra = 2 * (inputs.get("dynamic") is False)
    more = {"zero": zero, "index": index, "extra": extra}
    return _layout(kind, held, blocks[strategy], **more)


METHODS: dict[str, Any] = {  # what reads it, and the packages that run it
    "gptq": (_gptq, "gptqmodel", "optimum"),
    "awq": (_awq, "gptqmodel", "accelerate"),
    "bitsandbytes": (_bitsandbytes, "bitsandbytes", "accelerate"),
    "fp8": (_fp8, "accelerate"),
    "fbgemm_fp8": (_fp8, "fbgemm-gpu", "accelerate"),
    "compressed-tensors": (_compressed, "compressed-tensors"),
    "mxfp4": (_mxfp4, "accelerate"),
}
