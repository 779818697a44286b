"""Recipe: how a model is run, and which parts of one fit together. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fastlab.spec.checks import Spec, choice, count
from fastlab.spec.engines import CACHES, ENGINES, RUNTIMES, Engine
from fastlab.spec.formats import DENSE, FORMATS, PRECISIONS, QUANTIZED, Format
from fastlab.spec.kept import program_of
from fastlab.spec.pruning import NOTHING_CUT, Pruning
from fastlab.spec.shape import GROUPED, ModelShape
from fastlab.spec.storage import Sharing, Sparsity, check_weight, tables_of

ATTENTIONS = (
    *("sdpa", "eager", "sdpa-math", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn"),
    "flex",
)
SCOPES = ("layers", "head", "all")
KV_SCALE_BYTES = 4  # of the scale of one key or value in a quantized cache


@dataclass(frozen=True)
class Recipe(Spec):
    """What is made of the model, and how that is run.

    In this order: pruned, distilled (distill_steps of learning from the dense model
    again), some weights set to zero (sparsity), then quantized or given shared values;
    see Pruning, Sparsity, Sharing. With distinct_layers = N of L, each of N layers is
    used L / N times in a row (right after a pruning): memory and files hold N.

    attention: sdpa leaves the kernel to torch, sdpa-<kernel> names it, eager is plain
    matrix products, flex is flex_attention. cache: static ones are allocated once, of a
    bucketed length, their keys and values kept as they are or in int8 or fp8 with one
    scale per token and head. runtime: one of spec/engines.py. scope: a head is
    quantized too, with "all" the input embeddings as well.
    """

    KEPT: ClassVar = ("precision",)
    precision: str = choice("what is stored and computed in", PRECISIONS, "fp32")
    attention: str = choice("its kernel", ATTENTIONS, "sdpa")
    cache: str = choice("KV cache [dynamic or, compiled, static]", CACHES, None)
    runtime: str = choice("what runs it", RUNTIMES, "eager")
    unroll: int = count("decode steps in one compiled call or graph", 1, high=64)
    scope: str = choice("which weights a precision quantizes", SCOPES, "layers")
    pruning: Pruning = NOTHING_CUT
    distill_steps: int = count("steps of learning after pruning", 0, low=0)
    sparsity: Sparsity | None = None
    sharing: Sharing | None = None
    distinct_layers: int = count("layers with own weights, 0 = all", 0, low=0)

    def __post_init__(self) -> None:
        self._check_fields()
        if self.scope != "layers" and self.precision not in QUANTIZED:
            needs = f"needs a quantized precision ({', '.join(QUANTIZED)})"
            self.refuse("scope", f"{needs}; precision={self.precision!r} is none")
        if self.unroll > 1 and not self.engine.unrolls:
            able = [name for name, engine in ENGINES.items() if engine.unrolls]
            needs = f"needs runtime {' or '.join(able)}"
            alone = f"runtime={self.runtime!r} takes one step at a time"
            self.refuse("unroll", f"{needs}; {alone}")
        if self.distill_steps and not (self.prunes or self.distinct_layers):
            why = "the dense model has nothing to recover"
            self.refuse("distill_steps", f"needs something that is pruned: {why}")
        self._check_stored()

    def _check_stored(self) -> None:
        """Raise ValueError where weights cannot be stored so with the rest."""
        sparsity, storage = self.sparsity, self.storage
        if sparsity is not None and self.sharing is not None:
            both = f"share_bits={self.sharing.bits} and sparse_ratio={sparsity.ratio}"
            why = "a palette stores zeros like all other values"
            raise ValueError(f"{both} exclude each other: {why}")
        if storage != "dense" and self.precision not in DENSE:
            why = f"does not go with weights stored as {storage}"
            self.refuse("precision", f"{why}; allowed: {', '.join(DENSE)}")
        if storage == "csr" and "-" in self.attention:
            why = "their products come out transposed, which single kernels refuse"
            self.refuse("attention", f"must be sdpa or eager with csr weights: {why}")
        if storage in ("csr", "2:4") and self.engine.compiled:
            self.refuse("runtime", f"must be eager with weights stored as {storage}")

    @property
    def prunes(self) -> bool:
        """Whether anything is cut out of the model."""
        return self.pruning != NOTHING_CUT

    @property
    def storage(self) -> str:
        """How the weights of layers are stored: dense, csr, 2:4 or palette."""
        if self.sharing is not None:
            return "palette"
        return "dense" if self.sparsity is None else self.sparsity.storage

    @property
    def made_words(self) -> list[str]:
        """What was made smaller, in words for labels: "pruned", "90% csr", "3-bit"."""
        words = ["pruned"] if self.prunes else []
        if self.distinct_layers:
            words.append(f"{self.distinct_layers} shared layers")
        if self.distill_steps:
            words.append("distilled")
        if self.sparsity is not None:
            zeros = self.sparsity.pattern or f"{self.sparsity.ratio:.0%}"
            words.append(f"{zeros} {self.storage}")
        return [*words, f"{self.sharing.bits}-bit palette"] if self.sharing else words

    @property
    def weights_key(self) -> tuple[Any, ...]:
        """Recipes with the same one make the same weights of a dense model."""
        made = self.precision, self.scope, self.pruning, self.distill_steps
        return *made, self.sparsity, self.sharing, self.distinct_layers

    @property
    def engine(self) -> Engine:
        """What the runtime is and does."""
        return ENGINES[self.runtime]

    @property
    def format(self) -> Format:
        """What the precision is made of."""
        return FORMATS[self.precision]

    def check_fit(self, shape: ModelShape, phase: str) -> None:
        """Raise ValueError where it cannot run a model of such a (built) shape."""
        self._check_runtime(shape.kind, phase)
        if shape.config and self.distinct_layers:
            why = "layers that share weights are known of gpt2, bert, llama and qwen3"
            self.refuse("distinct_layers", f"must be 0: {why}")
        if self.distinct_layers and shape.layers % self.distinct_layers:
            self.refuse("distinct_layers", f"must divide the {shape.layers} layers")
        if shape.config and not (self.format.weights or self.storage != "dense"):
            return
        heads = shape.heads * shape.head_dim
        widths = {"hidden": shape.hidden, "heads x head_dim": heads, "ffn": shape.ffn}
        if shape.config:
            linears = program_of(shape)["linears"]
            of = {"layers", "layers" if self.scope == "layers" else "head"}
            widths = {f"width {k}": k for *_, k, at in linears if at in of}
        for name, width in widths.items():
            self.format.check_group(width, f"{name}={width}")
        for name, n, k in weights_of(shape):
            if self.sharing is not None:
                tables_of(self.sharing, n)
            if self.sparsity is not None:
                check_weight(self.sparsity, name, n, k)

    def _check_runtime(self, kind: str, phase: str) -> None:
        engine = self.engine
        this = f"; this is phase={phase!r} with cache={self.cache!r}"
        if kind == "encoder" and "prefill" not in engine.phases:
            able = [name for name, one in ENGINES.items() if "prefill" in one.phases]
            self.refuse("runtime", f"must be {' or '.join(able)} for an encoder")
        if phase not in engine.phases:
            self.refuse("runtime", f"needs phase {' or '.join(engine.phases)}{this}")
        if phase != "prefill" and self.cache not in engine.caches:
            only = f"decodes with cache {', '.join(engine.caches)} only"
            why = "the shapes of compiled code must not change"
            self.refuse("runtime", f"{only}: {why}{this}")
        if self.unroll > 1 and phase != "generate":
            self.refuse("unroll", f"must be 1 in phase {phase}")


PLAIN = Recipe()


def bucket(positions: int) -> int:
    """The length of a static cache that holds so many positions.

    128, 192, 256, 384, 512, ...: two lengths per doubling, so that few graphs are
    compiled and at most a third of the rows that attention reads are empty.
    """
    size = 128
    while size < positions:
        size *= 2
    return size * 3 // 4 if size > 128 and positions <= size * 3 // 4 else size


def kv_row_bytes(cache: str, value_bytes: int, head_dim: int) -> int:
    """Bytes that one position's key (or value) of one head takes in a cache.

    int8 and fp8 take one byte a number and a scale in fp32.
    """
    if cache == "none":
        return 0
    if cache in ("static-int8", "static-fp8"):
        return head_dim + KV_SCALE_BYTES
    return value_bytes * head_dim


def weights_of(shape: ModelShape) -> tuple[tuple[str, int, int], ...]:
    """(name, outputs, inputs) of the matrices of one layer; gpt2 has q, k, v as one.

    Of a traced model those of all sizes that its layers have.
    """
    if shape.config:
        linears = program_of(shape)["linears"]
        return tuple((f"{n} x {k}", n, k) for _, n, k, at in linears if at == "layers")
    h, f = shape.hidden, shape.ffn
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    apart = ("q", q, h), ("k", kv, h), ("v", kv, h)
    first = (("qkv", 3 * h, h),) if shape.family == "gpt2" else apart
    gate = (("mlp.gate", f, h),) if shape.family in GROUPED else ()
    return *first, ("out", h, q), *gate, ("mlp.up", f, h), ("mlp.down", h, f)
