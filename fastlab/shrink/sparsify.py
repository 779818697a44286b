"""Zeros among a model's weights: which ones, and modules that do not store them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlab.shrink import parts
from fastlab.shrink.kernels import StoredLinear, blocks
from fastlab.shrink.kernels.int4 import to_bytes, to_codes
from fastlab.shrink.pruning.probes import Site, check_ids, mean_squares
from fastlab.spec.storage import Sparsity, check_weight, zeros_per_row


class CsrLinear(StoredLinear):
    """Compressed sparse rows: fp32 values, int32 columns, int32 starts of the rows.

    torch's CPU product of them is for fp32 and fp64 only: other activations are
    widened, and the result is narrowed again.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    @property
    def rows(self) -> Tensor:
        """The stored parts as one CSR tensor (n, k), nothing copied."""
        size = (self.out_features, self.in_features)
        return torch.sparse_csr_tensor(
            self.starts, self.columns, self.values, size, check_invariants=False
        )

    def product(self, x: Tensor) -> Tensor:
        wide = x.float()
        if len(wide) == 1:
            return torch.mv(self.rows, wide[0])[None].to(x.dtype)
        return torch.mm(self.rows, wide.t().contiguous()).t().to(x.dtype)

    def dense(self) -> Tensor:
        return self.rows.to_dense()


def csr_parts(weight: Tensor) -> dict[str, Tensor]:
    """What a CsrLinear holds of a weight (n, k)."""
    with warnings.catch_warnings():  # "in beta state", once a process
        warnings.simplefilter("ignore", UserWarning)
        rows = weight.detach().float().to_sparse_csr()
    starts, columns = rows.crow_indices().int(), rows.col_indices().int()
    return {"starts": starts, "columns": columns, "values": rows.values()}


class SemiSparseLinear(StoredLinear):
    """2:4 weights for sparse tensor cores: half the values, and where they were."""

    def __init__(self, form: Any, size: Any, bias: Any, **held: Tensor) -> None:
        super().__init__(form, size, bias)
        weight = of_halves(**held)
        if reason := storage_refusal("2:4", weight.device, weight.dtype):
            raise ValueError(f"storage='2:4': {reason}")
        packed = torch.sparse.to_sparse_semi_structured(weight)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def product(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)

    def dense(self) -> Tensor:
        return self.weight.to_dense()

    def portable(self) -> dict[str, Tensor]:
        return halves(self.dense())


def halves(weight: Tensor) -> dict[str, Tensor]:
    """A 2:4 weight (n, k) as values (n, k / 2) and their places, 4 bits for two."""
    fours = weight.unflatten(1, (-1, 4))
    first = (fours != 0).byte().sort(dim=-1, descending=True, stable=True).indices
    kept = first[..., :2].sort(-1).values
    codes = (kept[..., 0] << 2 | kept[..., 1]).byte()
    return {"values": fours.gather(-1, kept).flatten(1), "places": to_bytes(codes)}


def of_halves(values: Tensor, places: Tensor) -> Tensor:
    """The weight (n, k) from which `halves` made both."""
    codes = to_codes(places).long()
    kept = torch.stack([codes >> 2, codes & 3], -1)
    fours = values.new_zeros(*codes.shape, 4)
    return fours.scatter_(-1, kept, values.unflatten(1, (-1, 2))).flatten(1)


STORED = {"csr": (CsrLinear, csr_parts), "2:4": (SemiSparseLinear, halves)}


def sparsify(model: Any, sparsity: Sparsity, ids: Tensor | None = None) -> Any:
    """Set weights of a model's layers to zero and store the rest; it is consumed.

    Embeddings, norms, biases and the output head stay. ids: token ids (rows, length) of
    a text, on which Wanda measures the inputs of the dense model. storage "dense"
    leaves the modules as they are. Raises ValueError, before anything changes, for
    missing or unfit ids, groups that do not divide a width, and a storage that the
    model's device, dtype or sizes do not allow.
    """
    with parts.apart(model, stays=sparsity.storage in STORED):
        _zero_each(model, sparsity, ids)
    return model


def _zero_each(model: Any, sparsity: Sparsity, ids: Tensor | None) -> None:
    names = parts.dense_names(model, "sparsify")
    for name in names:
        _check(name, model.get_submodule(name), sparsity)
    norms = _input_norms(model, names, ids) if sparsity.method == "wanda" else {}
    for name in names:
        dense = model.get_submodule(name)
        weight = parts.dense_weight(dense)
        zero_out(weight, sparsity, norms.get(name))
        if sparsity.storage in STORED:
            kind, held = STORED[sparsity.storage]
            bias = getattr(dense, "bias", None)
            stored = kind(sparsity, weight.shape, bias, **held(weight.detach()))
            model.set_submodule(name, stored)


def _check(name: str, dense: nn.Module, sparsity: Sparsity) -> None:
    weight = parts.dense_weight(dense)
    reason = storage_refusal(sparsity.storage, weight.device, weight.dtype)
    if reason:
        raise ValueError(f"storage={sparsity.storage!r}: {reason}")
    check_weight(sparsity, name, *weight.shape)


def storage_refusal(storage: str, device: torch.device, dtype: torch.dtype) -> str:
    """Why weights cannot be stored and multiplied so there, "" where they can."""
    if storage != "2:4":
        return ""
    if device.type != "cuda":
        return f"sparse tensor cores are NVIDIA's; the weights are on {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "sparse tensor cores begin with compute capability 8.0"
    allowed = (torch.float16, torch.bfloat16)
    return "" if dtype in allowed else f"weights must be fp16 or bf16, not {dtype}"


def _input_norms(model: Any, names: list[str], ids: Tensor | None) -> dict[str, Tensor]:
    """Root mean squares (k,) of each linear's inputs on the ids.

    The norm over the tokens divided by the root of their number, which is the same for
    every weight of a row and changes no order.
    """
    if ids is None:
        raise ValueError("method='wanda' needs ids: token ids (rows, length) of a text")
    sites = [Site((model.get_submodule(name),), True, 1) for name in names]
    squares = mean_squares(model, sites, check_ids(model, ids))
    seen = zip(names, squares, strict=True)  # an expert that no token chose saw nothing
    return {name: s.sqrt() for name, s in seen if isinstance(s, Tensor)}


def zeros_of(weight: Tensor, sparsity: Sparsity, norms: Tensor | None = None) -> Tensor:
    """Which weights (n, k) become zero: bool, exactly `zeros_per_row` in each row.

    Scores are |W|, or |W| times the norm of its input where `norms` (k,) are given
    (Wanda: Sun et al. 2023, arXiv 2306.11695). Of equal scores the first goes.
    """
    width = weight.shape[1]
    scores = weight.float().abs()
    if norms is not None:
        scores = scores * norms
    groups = scores.unflatten(1, (-1, sparsity.group[1] or width))
    zeros = zeros_per_row(sparsity, width) // groups.shape[1]
    least = groups.sort(dim=-1, stable=True).indices[..., :zeros]
    chosen = torch.zeros(groups.shape, dtype=torch.bool, device=weight.device)
    return chosen.scatter_(-1, least, True).flatten(1)


@torch.no_grad()
def zero_out(weight: Tensor, sparsity: Sparsity, norms: Tensor | None = None) -> None:
    """Set `zeros_of` a weight (n, k) to zero, in place, block by block."""
    for part in blocks(weight):
        part.masked_fill_(zeros_of(part, sparsity, norms), 0)
