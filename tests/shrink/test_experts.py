"""Experts in one tensor, quantized, shared and zeroed as linears of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from fastlab import models
from fastlab.cost.memory import parameters, weight_bytes
from fastlab.cost.passes import passes
from fastlab.cost.program import parts as priced
from fastlab.shrink import parts
from fastlab.shrink.kernels import Quantized, StoredLinear
from fastlab.shrink.quantize import quantize
from fastlab.shrink.recipes import build, load
from fastlab.shrink.saved import load_stored, save
from fastlab.shrink.share import share
from fastlab.shrink.sparsify import sparsify
from fastlab.spec import ModelShape, Recipe
from fastlab.spec.formats import QUANTIZED
from fastlab.spec.point import Point, Workload
from fastlab.spec.recipe import SCOPES
from fastlab.spec.storage import Sharing, Sparsity
from fastlab.spec.unsupported import unsupported
from fastlab.tracing.weights import stacks_of
from tests.small import logits, sqnr_db

# Gated; transposed, with biases; without a gate.
CLASSES = (MixtralExperts, GptOssExperts, NemotronHExperts)
# Signal to noise of a product, in dB, as for dense linears of random weights.
FLOORS = {"int8": 33, "int8-dynamic": 29, "fp8": 21, "fp8-dynamic": 18}


class Anything:
    """A device that lacks nothing."""

    kind = "cpu"

    def lacks(self, precision: str) -> str:
        return ""

    def lacks_compiler(self) -> str:
        return ""


def point_of(kind: str, precision: str = "fp32", **over: Any) -> Point:
    work = Workload(prompt_len=over.pop("prompt_len", 9))
    shape = ModelShape(kind, 2, over.pop("hidden", 64), vocab=512)
    return Point(shape, work, Recipe(precision, **over))


def experts_of(model: nn.Module) -> Any:
    return next(module for module in model.modules() if stacks_of(module))


class Sizes:
    """What the experts of a kind are built from."""

    hidden_size, intermediate_size, moe_intermediate_size = 128, 256, 256
    num_local_experts = num_experts = n_routed_experts = 6
    hidden_act = mlp_hidden_act = "silu"
    swiglu_alpha, swiglu_limit, moe_latent_size = 1.702, 7.0, None
    _experts_implementation = "eager"


def layer(kind: Any) -> nn.Module:
    """The experts of a class, with large random weights."""
    made: nn.Module = kind(Sizes())
    source = torch.Generator().manual_seed(0)
    for weight in made.parameters():
        weight.requires_grad_(False)
        weight.copy_(torch.randn(weight.shape, generator=source) / 8)
    return made


def routed(tokens: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, and two of the experts 0, 1, 3, 4 for each; 2 and 5 rest."""
    torch.manual_seed(1)
    chosen = torch.stack([torch.randperm(4)[:2] for _ in range(tokens)])
    index = torch.tensor([0, 1, 3, 4])[chosen]
    return torch.randn(tokens, 128), index, torch.rand(tokens, 2)


class Whole(nn.Module):
    """A model that is only these experts."""

    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([experts])

    def get_input_embeddings(self) -> Any:
        return nn.Embedding(1, 1)

    def get_output_embeddings(self) -> None:
        return None


@pytest.mark.parametrize("kind", CLASSES)
def test_each_precision_multiplies_as_it_does_linears(kind: Any) -> None:
    exact = layer(kind)(*routed())
    for precision in [name for name in QUANTIZED if "g256" not in name]:
        model: Any = Whole(layer(kind))
        quantize(model, precision)
        experts = model.layers[0]
        assert sqnr_db(exact, experts(*routed())) > FLOORS.get(precision, 11)
        linears = [m for m in experts.modules() if isinstance(m, Quantized)]
        assert len(linears) == 2 * 6
        assert {(m.out_features, m.in_features) for m in linears} in (
            {(512, 128), (128, 256)},
            {(256, 128), (128, 256)},
        )


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "qwen2_moe"])
def test_experts_apart_are_the_same_and_go_together_again(kind: str) -> None:
    point = point_of(kind)
    model = models.build(point)
    before, exact = model.state_dict(), logits(model, point)
    parts.take_apart(model)
    assert isinstance(experts_of(model).down_proj, nn.ModuleList)
    assert_close(logits(model, point), exact, atol=1e-5, rtol=1e-5)
    parts.put_together(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())
    assert torch.equal(logits(model, point), exact)


def test_only_experts_that_tokens_chose_run() -> None:
    model: Any = Whole(layer(GptOssExperts))
    quantize(model, "int8")
    ran = []
    for name, module in model.named_modules():
        if isinstance(module, Quantized):
            module.register_forward_hook(lambda *_, n=name: ran.append(n))
    model.layers[0](*routed())
    assert {int(name.rpartition(".")[2]) for name in ran} == {0, 1, 3, 4}
    assert len(ran) == 2 * 4


@pytest.mark.parametrize("precision", ["int8", "int4-g32"])
def test_every_stored_matrix_is_priced(precision: str) -> None:
    """Of so many tokens that each expert is chosen: all that is stored is read.

    Beside norms, and the frequencies of RoPE in "head.model".
    """
    point = point_of("mixtral", precision, prompt_len=4096)
    model = build(point)
    read = sum(
        times * op.weight_bytes
        for times, made in priced(passes(point)[0])
        for op in made
        if op.kind not in ("embedding", "norm") and op.name != "head.model"
    )
    routers = [w for n, w in model.named_parameters() if n.endswith("mlp.gate.weight")]
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    kept = [head.weight, *routers]
    stored = sum(m.weight_bytes() for _, m in parts.stored_modules(model))  # type: ignore
    assert routers and read == stored + sum(w.nbytes for w in kept)


def test_folders_keep_quantized_experts(tmp_path: Path) -> None:
    point = point_of("gpt_oss", "int4-g64")
    model = build(point)
    save(model, tmp_path)
    again = load_stored(tmp_path)
    assert parts.stored_weight_bytes(again) == weight_bytes(point)
    assert torch.equal(logits(again, point), logits(model, point))


def test_experts_are_shared_and_zeroed() -> None:
    ids = torch.arange(24).view(2, 12)
    for recipe in (
        Recipe(sharing=Sharing(4)),
        Recipe(sparsity=Sparsity(0.5, storage="csr")),
    ):
        point = Point(ModelShape("mixtral", 2, 64, vocab=512), recipe=recipe)
        model = models.build(point)
        if recipe.sharing:
            share(model, recipe.sharing)
        else:
            sparsify(model, recipe.sparsity)  # type: ignore[arg-type]
        assert isinstance(experts_of(model).down_proj[0], StoredLinear)
        assert parts.stored_weight_bytes(model) == weight_bytes(point)
        assert parts.logical_parameters(model) == parameters(point.shape)
    model = models.build(point_of("gpt_oss"))
    sparsify(model, Sparsity(pattern="2:4", method="wanda"), ids)
    fours = experts_of(model).down_proj.unflatten(1, (-1, 4))  # inputs are axis 1
    assert torch.equal((fours == 0).sum(2), torch.full_like(fours[:, :, 0], 2).long())


TYPES = ("mistral", "phi3", "opt", "gpt_neox", "bloom", "roberta", "distilbert")
TYPES += ("albert", "falcon", "cohere", "mpt", "t5", "mixtral", "ernie4_5_moe")
TYPES += ("nemotron_h", "gemma3_text", "longcat_flash", "mamba", "mobilebert")
# The first scope whose weights a type's own code reads, and how that is said.
REFUSED = {
    "gemma3_text": ("all", "Gemma3TextScaledWordEmbedding is more than a table"),
    "t5": ("all", "are one table"),
    "mamba": ("layers", r"MambaMixer reads .*dt_proj.weight by code of its own"),
    "longcat_flash": ("layers", "LongcatFlashExperts multiplies experts by code of"),
    "mobilebert": ("head", "MobileBertLMPredictionHead reads cls"),
}
ODD = ("phi3", "albert", "ernie4_5_moe", "mamba", "cohere", "nemotron_h", "mobilebert")
FLOOR = {"autocast-bf16": 26, "int8": 30, "int8-dynamic": 28, "int4-g64": 9, "fp8": 18}
ASKED = (
    *(("autocast-bf16", "layers"), ("int8", "layers"), ("int8-dynamic", "head")),
    *(("int4-g64", "all"), ("fp8", "layers")),
)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_right_or_refused_by_name(kind: str) -> None:
    plain = point_of(kind, hidden=128)
    exact = logits(models.build(plain), plain)
    first, words = REFUSED.get(kind, ("", ""))
    for precision, scope in ASKED:
        if precision == "int4-g64" and kind in ODD:
            with pytest.raises(ValueError, match="groups of 64 do not divide width"):
                point_of(kind, precision, scope=scope, hidden=128)
            continue
        point = point_of(kind, precision, scope=scope, hidden=128)
        reason = unsupported(point, Anything()) or ""
        if first and precision in QUANTIZED and first in SCOPES[: 1 + at(scope)]:
            assert re.search(f"weights cannot be {precision}: .*{words}", reason)
            continue
        assert not reason
        model = build(point)
        assert sqnr_db(exact, logits(model, point)) > FLOOR[precision], precision
        assert parts.stored_weight_bytes(model) == weight_bytes(point)
        assert parts.logical_parameters(model) == parameters(point.shape)


def at(scope: str) -> int:
    return SCOPES.index(scope)


def test_what_code_of_its_own_reads_is_refused_before_anything_changes() -> None:
    model = models.build(point_of("longcat_flash"))
    with pytest.raises(ValueError, match="LongcatFlashExperts multiplies experts by"):
        quantize(model, "int8")
    with pytest.raises(ValueError, match="Gemma3TextScaledWordEmbedding is more than"):
        quantize(models.build(point_of("gemma3_text")), "int8", "all")
    model = models.build(point_of("mixtral", hidden=96))
    with pytest.raises(ValueError, match="groups of 256 do not divide the 96 inputs"):
        quantize(model, "int4-g256")
    assert isinstance(experts_of(model).down_proj, nn.Parameter)
    compiled = point_of("mixtral", "int8", runtime="compile")
    reason = unsupported(compiled, Anything())
    assert reason and "runtime='compile' cannot choose experts that are int8" in reason


def test_a_folder_whose_code_reads_weights_is_refused(tmp_path: Path) -> None:
    save(models.build(point_of("mamba")), tmp_path)
    with pytest.raises(ValueError, match="weights cannot be int8: MambaMixer reads"):
        load(tmp_path, precision="int8")


def test_stacks_that_are_drawn_later_are_drawn_before_they_are_taken_apart() -> None:
    """Stacks of 2^22 numbers get theirs when their turn comes."""
    import fastlab as fl

    size = {"family": "mixtral", "layers": 1, "hidden": 256, "ffn": 1024, "vocab": 64}
    [dense], [eight] = (fl.grid(**size, precision=p) for p in ("fp32", "int8"))
    ids = torch.arange(8)[None]
    with torch.inference_mode():
        exact, found = (fl.build(p)(ids).logits.float() for p in (dense, eight))
    assert (found - exact).norm() < 0.1 * exact.norm()
