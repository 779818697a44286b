"""Linear modules on weights that are not dense, one file a format; what they share.

Each holds what it stores as `nn.Parameter`s without gradient, so that a model's bytes
are those of its parameters, and knows `dense()`: the weight (n, k) it stands for. A
format's row in spec/formats.py names its file and its class. The file's `rounded`
quantizes a weight: (n, k) and the format -> the class's parameters by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlab.spec.formats import Format

BLOCK = 2**22  # weights worked on at once: bounds the wide copies that this makes
ROUNDED = 2**19  # and of those that are rounded, in several wide copies: of the cache


class StoredLinear(nn.Module):
    """What all of them share: y = x W^T + b with W (n, k) as stored.

    form: its Format, Sparsity or Sharing; size: (n, k); held: what the weight is stored
    as, by name, as a file has it.
    """

    def __init__(
        self, form: Any, size: Sequence[int], bias: Tensor | None, **held: Tensor
    ) -> None:
        super().__init__()
        self.form = form
        self.out_features, self.in_features = size
        self.bias = None if bias is None else fixed(bias)
        self.weight: Any = None  # what code looks for that asks for a linear's dtype
        for name, values in held.items():
            setattr(self, name, fixed(values))

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

    def portable(self) -> dict[str, Tensor]:
        """Parameters that a file holds otherwise than this device does, by name."""
        return {}

    def weight_bytes(self) -> int:
        """Bytes of the weight as stored, without the bias."""
        return sum(bytes_of(w) for name, w in self.named_parameters() if name != "bias")


class Quantized(StoredLinear):
    """Codes and scales of a format."""

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the dense weight: (...) ids of output rows -> (..., k)."""
        return self.dense()[ids]

    def held(self) -> dict[str, Tensor]:
        """What it is made of again: its parameters, by name, as a file has them."""
        own = {n: w for n, w in self.named_parameters() if n != "bias"}
        return own | self.portable()

    def timed(self, x: Tensor, turn: Iterator[Any]) -> Callable[[], Tensor]:
        """What a calibration times: x (m, k) times the next of modules like this one.

        Only the product: what quantizes x before it is counted apart.
        """
        return lambda: next(turn).product(x)


class RowLinear(Quantized):
    """Weights of a byte with a scale per output row; activations as they come."""

    weight: Tensor
    scales: Tensor

    @property
    def codes(self) -> Tensor:
        """The weight (n, k) as multiplied: without its scales."""
        return self.weight

    def product(self, x: Tensor) -> Tensor:
        """x W^T with the weight widened to the dtype of x, block by block on a CPU.

        There a whole widened weight would be new pages of memory in each call, which
        cost more than the product (4096 x 4096 on 64 rows: 15 ms, in blocks 7). On a
        GPU a compiler fuses the widening into the product; eager code writes it first.
        """
        whole = x.device.type != "cpu" or torch.compiler.is_compiling()
        parts = [self.codes] if whole else blocks(self.codes)
        products = [functional.linear(x, part.to(x.dtype)) for part in parts]
        y = products[0] if len(products) == 1 else torch.cat(products, dim=1)
        return (y * self.scales).to(x.dtype)  # fp16 does not hold every scale

    def dense(self) -> Tensor:
        return self.codes.to(self.scales.dtype) * self.scales[:, None]

    def rows(self, ids: Tensor) -> Tensor:
        scales = self.scales[ids]
        return self.codes[ids].to(scales.dtype) * scales[..., None]


def kernel_of(form: Format) -> Any:
    """The file of a quantized format."""
    return import_module(f"{__name__}.{form.weights}")


def linear_of(
    form: Format, size: Sequence[int], bias: Tensor | None, held: Mapping[str, Tensor]
) -> Quantized:
    """The module of a size (n, k) whose parameters, by name, are as a file has them."""
    made: Quantized = getattr(kernel_of(form), form.linear)(form, size, bias, **held)
    return made


def quantized_linear(form: Format, weight: Tensor, bias: Tensor | None) -> Quantized:
    """The module of a format for a dense weight (n, k); its group must divide k."""
    held = kernel_of(form).rounded(weight, form)
    return linear_of(form, weight.shape, bias, held)


def in_triton(x: Tensor) -> Any:
    """unrolled.py, if it has a product for x (m, k) on this device; None if not."""
    if x.device.type != "cuda":
        return None
    try:
        unrolled = import_module(f"{__name__}.unrolled")
    except ImportError:  # no triton
        return None
    return unrolled if unrolled.takes(x) else None


def concatenate(modules: Sequence[Quantized]) -> Quantized:
    """One module with the output rows of several, in turn: bit for bit what they hold.

    Those without a bias get one of zeros where another has one. Raises ValueError for
    other formats or numbers of inputs than the first one's.
    """
    first, n = modules[0], sum(m.out_features for m in modules)
    form, k = first.form, first.in_features
    for other in modules:
        if (other.form, other.in_features) != (form, k):
            kind = f"{other.form.name} of {other.in_features} inputs"
            raise ValueError(f"{kind} cannot join {form.name} of {k} inputs")
    held = {}
    for name, one in first.held().items():
        at = 1 if name == "pairs" else 0  # the axis of output rows; filled up anew
        parts = [m.held()[name].narrow(at, 0, m.out_features) for m in modules]
        extra = -n % form.row_multiple
        zeros = one.new_zeros(*one.shape[:at], extra, *one.shape[at + 1 :])
        held[name] = torch.cat([*parts, zeros] if extra else parts, at)
    biases = [m.bias for m in modules]
    bias = None
    like = next((b for b in biases if b is not None), None)
    if like is not None:
        own = zip(modules, biases, strict=True)
        bias = torch.cat(
            [like.new_zeros(m.out_features) if b is None else b for m, b in own]
        )
    return linear_of(form, (n, k), bias, held)


def rounded_rows(
    x: Tensor, kind: torch.dtype, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """(m, k) -> codes (m, k) of a kind of one byte and scales (m, 1): x = codes scales.

    Symmetric, each row by its own largest value. The scale is rounded to its dtype
    first, so that a code is the nearest under the scale that is really stored.
    """
    exact, wide = x.float(), kind.is_floating_point
    largest = (torch.finfo(kind) if wide else torch.iinfo(kind)).max
    sizes = exact.abs().amax(-1, keepdim=True)
    scales = stored_scale(sizes / largest, dtype)
    codes = exact / scales.float()
    codes = codes if wide else torch.round(codes)
    return codes.clamp(-largest, largest).to(kind), scales


def stored_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales as a dtype holds them, never 0, nor what fp32 would take for 0.

    Of fp16, whose range is short, down to its least number.
    """
    made = torch.finfo(dtype)
    least = made.smallest_normal * (made.eps if dtype == torch.float16 else 1)
    return scale.clamp(min=least).to(dtype)


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


def blocks(weight: Tensor) -> tuple[Tensor, ...]:
    """A weight (n, k) in blocks of rows, of BLOCK values or one row at most."""
    return weight.split(max(1, BLOCK // weight.shape[1]))


def by_blocks(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], weight: Tensor
) -> tuple[Tensor, Tensor]:
    """A function of rows, of a weight (n, k) block by block."""
    wholes: list[Tensor] = []  # filled in place: parts joined at last are held twice
    at, step = 0, max(1, ROUNDED // weight.shape[1])
    for rows in weight.split(step):
        made = function(rows)
        wholes = wholes or [x.new_empty(len(weight), *x.shape[1:]) for x in made]
        for whole, part in zip(wholes, made, strict=True):
            whole[at : at + len(rows)] = part
        at += len(rows)
    return wholes[0], wholes[1]
