"""Small models, token ids and weights for tests, and what is compared of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import fastlab as fl
from fastlab.calls import prepare
from fastlab.checkpoints import export_model
from fastlab.learning.tokens import make_tokenizer
from fastlab.models import build, numerics
from fastlab.spec import Point, point_of

FAMILIES = ("gpt2", "llama", "qwen3", "bert")
DECODERS = FAMILIES[:3]
# Three groups of two heads; in qwen3 heads are wider than hidden / heads.
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"hidden": 48, "heads": 6, "ffn": 40, "max_positions": 64},
    "llama": {"hidden": 48, "heads": 6, "kv_heads": 3, "ffn": 40, "tied": True},
    "qwen3": {
        **{"hidden": 32, "heads": 6, "kv_heads": 3, "head_dim": 16, "ffn": 40},
        **{"tied": False},
    },
    "bert": {"hidden": 48, "heads": 6, "ffn": 40, "max_positions": 64},
}
# One or two groups, of three heads; gpt2 has none.
TINY: dict[str, dict[str, Any]] = {
    "gpt2": {"hidden": 32, "heads": 2, "max_positions": 64},
    "llama": SIZES["llama"] | {"kv_heads": 2, "ffn": 64},
    "qwen3": SIZES["qwen3"] | {"heads": 3, "kv_heads": 1, "ffn": 64},
}


def small(family: str, layers: int = 3, **over: Any) -> Any:
    """A model of 97 words with large matrices, and biases and norms of all sizes."""
    sizes = SIZES[family] | {"layers": layers, "vocab": 97, "prompt_len": 8} | over
    model = build(point_of(family=family, **sizes))
    source = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.mul_(8)
        else:
            weight.add_(0.2 * torch.randn(weight.shape, generator=source))
    return model


def tiny(family: str, layers: int = 1, **over: Any) -> Any:
    """One whose next token is decided: its matrices have ten times their usual size."""
    sizes = TINY[family] | {"layers": layers, "vocab": 97, "prompt_len": 8} | over
    model = build(point_of(family=family, **sizes))
    for weight in model.parameters():
        weight.mul_(10 if weight.ndim > 1 else 1)
    return model


def checkpoint(folder: Path, text: str, **sizes: Any) -> fl.Trained:
    """A model that nobody trained, its tokenizer of 300 tokens, and a text of its own.

    By default tiny-llama.
    """
    own, students = folder / "text.txt", folder / "students"
    own.write_text(text, encoding="utf-8")
    asked = {"vocab": 300, "prompt_len": 8, "max_positions": 128} | sizes
    asked |= {} if "family" in sizes else {"model": "tiny-llama"}
    export_model(build(point_of(**asked)), make_tokenizer(text, 300), folder)
    return fl.Trained(str(folder), (str(own),), str(students))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def token_rows(rows: int = 4, length: int = 12, seed: int = 0) -> torch.Tensor:
    """Random token ids (rows, length)."""
    source = torch.Generator().manual_seed(seed)
    return torch.randint(97, (rows, length), generator=source)


@torch.no_grad()
def logits_of(model: Any, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Logits (rows, length, vocab)."""
    return model(token_rows(2) if ids is None else ids).logits


def logits(model: Any, point: Point) -> torch.Tensor:
    """Those of a point's call, in fp32."""
    with numerics(point.recipe.precision):
        return prepare(model, point).run().float()


def generated(model: Any, ids: torch.Tensor, new: int) -> torch.Tensor:
    """What transformers' own greedy generation makes of it."""
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
    )
    return out[:, ids.shape[1] :]


def sqnr_db(exact: torch.Tensor, got: torch.Tensor) -> float:
    """10 log10 of the signal's energy over the error's."""
    exact, got = exact.double(), got.double()
    error = (exact - got).square().sum()
    return float(10 * torch.log10(exact.square().sum() / error))


def same_weights(one: Any, other: Any) -> bool:
    """Whether two models have the same parameters, bit for bit."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
