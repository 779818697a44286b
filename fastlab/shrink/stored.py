"""Linear modules on weights stored sparse, or as indices into tables of values.

Each holds what it stores as `nn.Parameter`s without gradient, so that a model's bytes
are those of its parameters, and knows `dense()`: the weight (n, k) it stands for.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class StoredLinear(nn.Module):
    """What all of them share: y = x W^T + b with W (n, k) as stored."""

    def __init__(self, n: int, k: int, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = n, k
        self.bias = None if bias is None else fixed(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) -> (..., n) in the dtype of x."""
        y = self.product(x.reshape(-1, self.in_features))
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"

    def product(self, x: Tensor) -> Tensor:
        """(m, k) -> (m, n), without the bias: by the dense weight, if not better."""
        return functional.linear(x, self.dense().to(x.dtype))

    def dense(self) -> Tensor:
        """The weight (n, k) that the stored one stands for."""
        raise NotImplementedError

    def weight_bytes(self) -> int:
        """Bytes of the weight as stored, without the bias."""
        return sum(bytes_of(w) for name, w in self.named_parameters() if name != "bias")


class CsrLinear(StoredLinear):
    """Compressed sparse rows: fp32 values, int32 columns, int32 starts of the rows.

    torch's CPU product of them is for fp32 and fp64 only: other activations are
    widened, and the result is narrowed again.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[0], weight.shape[1], bias)
        with warnings.catch_warnings():  # "in beta state", once a process
            warnings.simplefilter("ignore", UserWarning)
            rows = weight.detach().float().to_sparse_csr()
        self.starts = fixed(rows.crow_indices().to(torch.int32))
        self.columns = fixed(rows.col_indices().to(torch.int32))
        self.values = fixed(rows.values())

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


class SemiSparseLinear(StoredLinear):
    """2:4 weights for sparse tensor cores: half the values, and where they were."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[0], weight.shape[1], bias)
        packed = torch.sparse.to_sparse_semi_structured(weight.detach().contiguous())
        self.weight = nn.Parameter(packed, requires_grad=False)

    def product(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)

    def dense(self) -> Tensor:
        return self.weight.to_dense()


class LutLinear(StoredLinear):
    """Each weight is an index into its group's table of values.

    packed: the indices as bit planes (see pack); tables: (groups of rows, 2^bits)
    in the dense dtype. The whole weight is looked up in every call: smaller, not
    faster.
    """

    def __init__(
        self, packed: Tensor, tables: Tensor, n: int, k: int, bias: Tensor | None
    ) -> None:
        super().__init__(n, k, bias)
        self.packed, self.tables = fixed(packed), fixed(tables)

    def dense(self) -> Tensor:
        n, k = self.out_features, self.in_features
        codes = unpack(self.packed, n * k).view(len(self.tables), -1)
        return torch.gather(self.tables, 1, codes.long()).view(n, k)


def fixed(values: Tensor) -> nn.Parameter:
    """The values as a parameter without gradient; one that has none stays itself."""
    if isinstance(values, nn.Parameter) and not values.requires_grad:
        return values
    return nn.Parameter(values.detach(), requires_grad=False)


def bytes_of(weight: Any) -> int:
    """Bytes of a weight as stored; of a 2:4 one its values and their places, once."""
    if not hasattr(weight, "__tensor_flatten__"):
        return int(weight.numel() * weight.element_size())
    names, _ = weight.__tensor_flatten__()
    inner = {id(t): t for t in (getattr(weight, name) for name in names)}
    return sum(map(bytes_of, inner.values()))


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes (m,) -> bytes (bits, m / 8, up): a plane for each bit of a code."""
    eights = functional.pad(codes, (0, -len(codes) % 8)).view(-1, 8)
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    planes = [((eights >> bit & 1) << places).sum(1) for bit in range(bits)]
    return torch.stack(planes).to(torch.uint8)


def unpack(packed: Tensor, count: int) -> Tensor:
    """The uint8 codes (count,) from which `pack` made the bytes."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    codes = torch.zeros(packed.shape[1], 8, dtype=torch.uint8, device=packed.device)
    for bit, plane in enumerate(packed):
        codes |= (plane[:, None] >> places & 1) << bit
    return codes.view(-1)[:count]
