"""Bytes of weights that others quantized, worked out by hand from the formats."""

from __future__ import annotations

from typing import Any

import pytest

from fastlab.cost.memory import parameters, weight_bytes
from fastlab.models import config_of
from fastlab.spec import Point, Recipe
from fastlab.spec.published import read
from fastlab.spec.shape import PRESETS, ModelShape

N, K = 192, 256
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
NF4 |= {"bnb_4bit_quant_type": "nf4"}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}


def compressed(form: str, inputs: Any = None, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    own = {"format": form, "ignore": ["lm_head"], "config_groups": {"group_0": group}}
    return {"quant_method": "compressed-tensors", **own}


INT = {"type": "int", "strategy": "group", "group_size": 64}
CHANNEL = {"type": "int", "strategy": "channel"}
BLOCK = {"strategy": "block", "block_structure": [64, 128]}
FLOAT = {"type": "float", "num_bits": 8}
# Of bitsandbytes 0.50 and compressed-tensors 0.20 the bytes are those of the tensors
# that the packages themselves made of a weight (192, 256).
HALF = N * K // 2
CASES = [
    # codes, then 2 groups a row: scales, zero points of 4 bits, an int32 for each input
    (GPTQ, HALF + 2 * N * 2 + N * 2 // 2 + 4 * K, "gptq int4-g128"),
    (GPTQ | {"group_size": -1}, HALF + 2 * N + N // 2 + 4 * K, "gptq int4"),
    (GPTQ | {"bits": 8}, N * K + 2 * N * 2 + N * 2 + 4 * K, "gptq int8-g128"),
    (GPTQ | {"bits": 3}, N * K * 3 // 8 + 768 + 144 + 4 * K, "gptq int3-g128"),
    (GPTQ | {"checkpoint_format": "marlin"}, HALF + 2 * N * 2, "gptq int4-g128"),
    (AWQ, HALF + 2 * N * 2 + N * 2 // 2, "awq int4-g128"),
    (NF4, 27_712, "bitsandbytes nf4-g64"),  # 24576 + 4 * 768 + 4 * 16
    # 24576 + 768 + 4 * 3 + 4 * 256 + 4 * 16
    (NF4 | {"bnb_4bit_use_double_quant": True}, 26_444, "bitsandbytes nf4-g64"),
    (INT8, N * K + 4 * N, "bitsandbytes int8"),
    (FP8, N * K + 4 * 2 * 2, "fp8-128x128"),
    (FP8 | {"weight_block_size": None}, N * K + 4, "fp8"),
    ({"quant_method": "fp8", "activation_scheme": "static"}, N * K + 8, "fp8"),
    ({"quant_method": "fbgemm_fp8"}, N * K + 4 * N, "fbgemm_fp8 fp8"),
    (compressed("pack-quantized", num_bits=4, **INT), 26_112, "int4-g64"),
    (
        compressed("pack-quantized", num_bits=4, symmetric=False, **INT),
        26_496,  # 24576 + 2 * 192 * 4 + 4 * 24 * 4
        "int4-g64",
    ),
    (
        compressed("pack-quantized", num_bits=4, actorder="group", **INT),
        26_112 + 4 * K,
        "int4-g64",
    ),
    (compressed("int-quantized", num_bits=8, **CHANNEL), N * K + 2 * N, "int8"),
    (compressed("float-quantized", **FLOAT), N * K + 2, "fp8"),
    (compressed("float-quantized", {"dynamic": False}, **FLOAT), N * K + 4, "fp8"),
    (
        compressed("float-quantized", **BLOCK, **FLOAT),
        N * K + 2 * 3 * 2,
        "fp8-64x128",
    ),
    (
        compressed("nvfp4-pack-quantized", {"dynamic": "local"}, **FLOAT),
        27_656,
        "nvfp4-g16",
    ),
]


@pytest.mark.parametrize(("config", "expected", "label"), CASES)
def test_bytes_of_one_matrix(config: Any, expected: int, label: str) -> None:
    assert read(config).linear_bytes(N, K) == expected
    assert read(config).label.endswith(label)


def test_the_experts_of_mxfp4() -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert read(MXFP4).linear_bytes(N, K, name) == N * K // 2 + N * K // 32
    assert (
        read(MXFP4).linear_bytes(N, K, "model.layers.0.self_attn.q_proj") == 2 * N * K
    )


IN, HEAD = "model.layers.3.mlp.up_proj", "lm_head"
GATE = "model.layers.3.mlp.gate"


@pytest.mark.parametrize(
    ("config", "names", "dense"),
    [
        (GPTQ, [IN], [HEAD]),
        (GPTQ | {"lm_head": True}, [IN, HEAD], []),
        (GPTQ | {"modules_in_block_to_quantize": [["mlp.up_proj"]]}, [IN], [GATE]),
        (GPTQ | {"dynamic": {r"-:.*\.3\..*gate": {}}}, [IN], [GATE]),
        (AWQ | {"modules_to_not_convert": ["mlp.gate"]}, [IN], [GATE, HEAD]),
        (NF4, [IN, GATE], [HEAD]),
        (NF4 | {"llm_int8_skip_modules": ["gate"]}, [IN, HEAD], [GATE]),
        (FP8 | {"modules_to_not_convert": [GATE, HEAD]}, [IN], [GATE, HEAD]),
        (FP8 | {"modules_to_not_convert": ["model.layers.3"]}, [], [IN, GATE]),
        (FP8 | {"modules_to_not_convert": ["model.layers.33"]}, [IN, GATE], []),
        (compressed("dense"), [], [IN, HEAD]),
        (compressed("pack-quantized", num_bits=4), [IN], [HEAD]),
        (
            compressed("pack-quantized", num_bits=4) | {"ignore": ["re:.*gate$"]},
            [IN, HEAD],
            [GATE],
        ),
    ],
)
def test_which_modules_stay_dense(config: Any, names: Any, dense: Any) -> None:
    made = read(config)
    assert [name for name in [*names, *dense] if made.layout(name)] == names


def test_rules_of_their_own() -> None:
    made = read(GPTQ | {"dynamic": {r"+:.*\.gate": {"bits": 8, "group_size": 32}}})
    assert [made.layout(name)[0] for name in (GATE, IN)] == ["int8-g32", "int4-g128"]  # type: ignore


LLAMA = ModelShape(
    "llama", 32, 4096, heads=32, head_dim=128, ffn=11008, vocab=32000, tied=False
)
# 32 layers of 4 x 4096^2 + 3 x 4096 x 11008 weights, and a dense head
WEIGHTS, HEAD_BYTES = 6_476_005_376, 32000 * 4096 * 2
BY_FILE = {
    # TheBloke/Llama-2-7B-GPTQ holds 3.90 GB: these, the embeddings and the norms
    "gptq": WEIGHTS // 2 + WEIGHTS // 64 + WEIGHTS // 256 + 4 * 32 * (6 * 4096 + 11008),
    "awq": WEIGHTS // 2 + WEIGHTS // 64 + WEIGHTS // 256,
    "nf4": WEIGHTS // 2 + WEIGHTS // 64 + WEIGHTS // 4096 + 32 * 7 * 1088,
    "fp8": WEIGHTS + WEIGHTS // 4096,
}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gptq", GPTQ),
        ("awq", AWQ),
        ("nf4", NF4 | {"bnb_4bit_use_double_quant": True}),
        ("fp8", FP8),
    ],
)
def test_all_matrices_of_llama_2_7b(name: str, config: Any) -> None:
    """And the head, the token table and 65 norms, which stay dense in 16 bits."""
    dense = 2 * HEAD_BYTES + 65 * 4096 * 2
    assert predicted(config_of(LLAMA), config) == BY_FILE[name] + dense


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-bert", "tiny-qwen3"])
def test_matrices_of_other_families(name: str) -> None:
    """fp8: a byte less a weight of the layers, and 4 more a matrix of 64 to 256."""
    from fastlab.models import build
    from fastlab.shrink.parts import dense_weight, linear_names
    from fastlab.spec import point_of

    model, shape = build(point_of(model=name)), PRESETS[name]
    names = linear_names(model, "layers")
    weights = sum(dense_weight(model.get_submodule(n)).numel() for n in names)
    every = [n for n in linear_names(model, "all") if n not in names]
    fp8 = {"quant_method": "fp8", "modules_to_not_convert": every}
    skipped = {"quant_method": "fp8", "modules_to_not_convert": [*every, *names]}
    dense = 2 * parameters(shape)
    assert predicted(config_of(shape), skipped) == dense
    assert predicted(config_of(shape), fp8) == dense - weights + 4 * len(names)


def predicted(plain: Any, quantization: Any) -> int:
    """Bytes of the weights of a config whose matrices are stored so, in bf16."""
    plain.quantization_config = dict(quantization)
    shape = ModelShape.from_config(plain)
    return weight_bytes(Point(shape, recipe=Recipe("bf16")))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "quant_method=None is not one of gptq, awq"),
        ({"quant_method": "hqq"}, "quant_method='hqq' is not one of"),
        ({"quant_method": ["gptq"]}, "quantization_config=.*unhashable|is not one of"),
        ("gptq", "quantization_config='gptq'"),
        (GPTQ | {"bits": "4"}, "bits='4' must be a whole number from 2 to 8"),
        (GPTQ | {"group_size": -5}, "group_size=-5 must be"),
        (GPTQ | {"dynamic": {"-:(": {}}}, "quantization_config=.*unterminated"),
        (AWQ | {"version": "gemv"}, "version='gemv' is not one of gemm"),
        (NF4 | {"bnb_4bit_quant_type": "int"}, "bnb_4bit_quant_type='int' is not"),
        (FP8 | {"weight_block_size": [128, "x"]}, "weight_block_size='x' must be"),
        (FP8 | {"weight_block_size": 128}, "quantization_config=.*not iterable"),
        (compressed("marlin-24", num_bits=4), "format='marlin-24' is not one of"),
        ({"quant_method": "compressed-tensors"}, "quantization_config=.*config_groups"),
    ],
)
def test_what_no_model_has_is_refused(config: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(config)


def test_packages() -> None:
    assert read(GPTQ).packages == ("gptqmodel", "optimum")
    assert read(NF4).packages[0] == "bitsandbytes"
    old = {"load_in_8bit": True}  # no quant_method, as bitsandbytes' first files
    assert read(old).label == "bitsandbytes int8"
