"""Parameters, KV cache, peak memory: does it fit, and up to which batch?"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from fastlab.cost.attention import row_bytes, widths
from fastlab.cost.columns import most
from fastlab.cost.passes import ForwardPass, passes, static_rows
from fastlab.cost.program import cache_bytes, live_bytes, parts
from fastlab.cost.stored import CODE, INDEX
from fastlab.spec.formats import FORMATS, stored_bytes, table_bytes
from fastlab.spec.kept import program_of
from fastlab.spec.point import Point
from fastlab.spec.recipe import Recipe, kv_row_bytes, weights_of
from fastlab.spec.shape import GROUPED, LEARNED_POSITIONS, ModelShape
from fastlab.spec.storage import palette_bytes, sparse_bytes

RESERVE = 0.08  # the share of a device's memory that no model gets


@lru_cache(maxsize=1024)
def parameters(shape: ModelShape) -> int:
    """Number of parameters of the transformers model, a tied head counted once."""
    if shape.config:
        return int(program_of(shape)["parameters"])
    h, f, v = shape.hidden, shape.ffn, shape.vocab
    head = 0 if shape.tied else v * h
    layer = sum(n * k for _, n, k in weights_of(shape))
    if shape.family in LEARNED_POSITIONS:
        layer += 9 * h + f  # biases 3H + H + F + H, norms 4H
        body = v * h + shape.max_positions * h + shape.layers * layer
        # bert: two types and a norm before, the head's transform and its norm after
        outside = 4 * h + h * h + 3 * h + v if shape.family == "bert" else 2 * h + head
        return body + outside
    layer += 2 * h + (2 * shape.head_dim if shape.family == "qwen3" else 0)  # norms
    return v * h + shape.layers * layer + h + head


def distinct_parameters(point: Point) -> int:
    """Those of the model as built, of layers that share weights only once."""
    shape, layers = point.built_shape, point.recipe.distinct_layers
    return parameters(replace(shape, layers=layers) if layers else shape)


def weight_bytes(point: Point) -> int:
    """Bytes of all weights as stored, scales included, a shared tensor once."""
    s = point.built_shape
    if s.config:
        return _traced_bytes(s, point.recipe)
    if point.recipe.distinct_layers:
        s = replace(s, layers=point.recipe.distinct_layers)
    layer = sum(_saved(point.recipe, n, k) for _, n, k in weights_of(s))
    dense = parameters(s) * point.recipe.format.value
    return dense - s.layers * layer - _saved_outside(s, point.recipe)


def _traced_bytes(shape: ModelShape, recipe: Recipe) -> int:
    """The same of a traced model, by the sizes of its linears and of its token table.

    A tied head is one of the linears, and its table no tensor of its own before.
    """
    program, made, value = program_of(shape), recipe.format, recipe.format.value
    if packed := program.get("published"):
        dense = int(program["bytes"][str(value)]) - packed["numbers"] * value
        return dense + int(packed["bytes"])
    saved = sum(
        count * _saved(recipe, n, k)
        for count, n, k, scope in program["linears"]
        if scope == "layers" or recipe.scope != "layers"
    )
    (rows, width, tied), table = program["table"], 0
    if recipe.scope != "layers":
        own = made if recipe.scope == "all" else FORMATS[made.dense]
        stored = table_bytes(own, rows, width, value)
        table = stored - rows * width * value * (not tied)
        if tied and recipe.scope == "all" and made.shares_table:
            table -= stored
    return int(program["bytes"][str(value)]) - saved + table


def _saved(recipe: Recipe, n: int, k: int) -> int:
    """Bytes that a weight (n, k) of a layer takes less than a dense one."""
    value = recipe.format.value
    if recipe.sharing is not None:
        stored = palette_bytes(recipe.sharing, n, k, value)
    elif recipe.sparsity is not None and recipe.storage != "dense":
        stored = sparse_bytes(recipe.sparsity, n, k, value)
    else:
        stored = stored_bytes(recipe.format, n, k, value)
    return n * k * value - stored


def _saved_outside(s: ModelShape, recipe: Recipe) -> int:
    """The same of the head and the token table, as far as the scope goes.

    A tied head gets a copy of its own, unless the table is int8 as the head is.
    """
    made, scope, sizes = recipe.format, recipe.scope, (s.vocab, s.hidden)
    if scope == "layers":
        return 0
    table = s.vocab * s.hidden * made.value
    head = stored_bytes(made, *sizes, made.value)
    saved = table - head + _saved(recipe, s.hidden, s.hidden) * (s.family == "bert")
    if scope == "all":
        saved += table - table_bytes(made, *sizes, made.value)
    if s.tied:  # one of the two was no tensor of its own; int8 ones share again
        saved -= table - head * (scope == "all" and made.shares_table)
    return saved


class MemoryFootprint(NamedTuple):
    """Bytes alive at the fullest moment of a call.

    kv_cache: keys and values held when it ends, all of a static cache; live: the most
    that activations take.
    """

    weights: int
    kv_cache: int
    live: int

    @property
    def peak(self) -> int:
        """Estimated most bytes alive at once."""
        return self.weights + self.kv_cache + self.live


def memory_footprint(point: Point) -> MemoryFootprint:
    """What a call holds in memory: weights, KV cache and live activations."""
    steps = passes(point, ends=True)
    live = most(_live(step) for step, _ in groupby(steps))
    s, work, last = point.built_shape, point.workload, steps[-1]
    if s.config:
        kv_cache = cache_bytes(last, static_rows(point)) if last.cached else 0
        return MemoryFootprint(weight_bytes(point), kv_cache, live)
    if last.static:
        rows, row = static_rows(point), row_bytes(last)
    else:
        rows, row = work.positions, s.kv_heads * s.head_dim * sum(widths(last))
    kv_cache = s.layers * work.batch * rows * row if last.cached else 0
    return MemoryFootprint(weight_bytes(point), kv_cache, live)


def kv_cache_bytes(point: Point) -> int:
    """Bytes of keys and values held when the call ends; all of a static cache."""
    return memory_footprint(point).kv_cache


def peak_bytes(point: Point) -> int:
    """Estimated most bytes alive at once: weights, KV cache and live activations."""
    return memory_footprint(point).peak


def _live(step: ForwardPass) -> int:
    """Live activations at the widest moment of one forward pass, in bytes."""
    if step.shape.config:
        return live_bytes(step) + _cast_live(step)
    s, a = step.shape, step.value
    stream = step.rows * s.hidden * a
    head = stream + step.batch * step.scored * (s.hidden + s.vocab) * a
    # gelu_new holds its input, the running product and two temporaries; SwiGLU gate,
    # silu(gate), up and their product; bert's fused GELU input and output. The residual
    # and the normed stream; GPT-2 also keeps the attention's output.
    wide = step.rows * s.ffn * a * (2 if s.family == "bert" else 4)
    mlp = (4 if s.family == "gpt2" else 2) * stream + wide
    inner = _attention_live(step, stream), _looked_up_live(step, stream)
    return most([mlp, head, *inner]) + _cast_live(step) + _cache_live(step)


def _looked_up_live(step: ForwardPass, stream: int) -> int:
    """The look-up of the largest weight beside the rows it waits for, if there is one.

    Codes, their indices and the values gathered; then the dense weight alone, while a
    product of it is written. Compiled code keeps codes and indices in registers.
    """
    if step.storage != "palette":
        return 0
    a, wide = step.value, step.rows * step.shape.ffn * step.value
    weights = max(n * k for _, n, k in weights_of(step.shape))
    looking = 0 if step.compiled else wide + weights * (CODE + INDEX + a)
    return 2 * stream + max(looking, 2 * wide + weights * a)


def _cache_live(step: ForwardPass) -> int:
    """What one layer's cache holds beside itself while it is used."""
    one = step.batch * step.shape.kv_heads * step.shape.head_dim
    if not step.static:  # cat copies: the old keys outlive their copy
        return one * step.past * widths(step)[0]
    if not (step.packed_cache and step.masked):
        return 0
    # Both unpacked, one of them in fp32 first.
    return one * step.keys * (step.value + 4 * (step.value == 2) + step.value)


def _cast_live(step: ForwardPass) -> int:
    """The 16-bit copy of the largest weight under autocast, or of a widened one."""
    s, a = step.shape, step.narrow
    inner, head = a * s.ffn * s.hidden, a * s.vocab * s.hidden
    if step.format.autocast:
        return max(inner, head)
    layer, whole = (
        step.format.dequantizes(rows, step.compiled)
        for rows in (step.rows, step.batch * step.scored)
    )
    return max(inner * layer, head * (whole and step.recipe.scope != "layers"))


def _attention_live(step: ForwardPass, stream: int) -> int:
    s, a = step.shape, step.value
    fused = 2 * stream + (2 * s.heads + 4 * s.kv_heads) * step.rows * s.head_dim * a
    if step.fused:
        return fused
    keys = step.past + step.new
    scores = step.batch * s.heads * step.new * keys
    copies = 2 * step.batch * keys * s.heads * s.head_dim * a
    # Two score matrices at once (three in GPT-2); a softmax in fp32 holds 8 bytes a
    # score in any dtype.
    per_score = 8 if s.family in GROUPED else (3 if s.family == "gpt2" else 2) * a
    return fused + scores * per_score + (copies if s.heads != s.kv_heads else 0)


def largest_batch(point: Point, memory_bytes: int, reserve: float = RESERVE) -> int:
    """The largest batch whose estimated peak fits; 0 if not even one does.

    `reserve` is the share of the memory left to the driver, the runtime's workspaces
    and fragmentation.
    """

    def peak(batch: int) -> int:
        work = replace(point.workload, batch=batch)
        return peak_bytes(replace(point, workload=work))

    return bisect_right(range(1, 2**30), memory_bytes * (1 - reserve), key=peak)


def decode_bytes(point: Point, weight_bytes: int) -> int:
    """Bytes that one decode step must read, of so many that all weights take as stored.

    Weights, keys and values, with scales, but for the input embedding table, of which
    one row is read: the definition of memory bandwidth utilization (MBU) that gpt-fast
    uses, with the KV cache added. Over a generation the mean of its steps.
    """
    shape, work, recipe = point.built_shape, point.workload, point.recipe
    if shape.config:
        return _traced_decode_bytes(point)
    made, value = recipe.format, recipe.format.value
    own_head = not shape.tied or (made.weights and recipe.scope != "layers")
    whole = made if recipe.scope == "all" else FORMATS[made.dense]
    table = table_bytes(whole, shape.vocab, shape.hidden, value) if own_head else 0
    if shape.family in LEARNED_POSITIONS:
        table += shape.max_positions * shape.hidden * value
    positions = work.batch * (work.prompt_len + (work.new_tokens + 1) // 2)
    row = 2 * shape.kv_heads * kv_row_bytes(recipe.cache, value, shape.head_dim)
    if recipe.distinct_layers:  # each is read as often as it is used
        weight_bytes += used_again(point)
    return weight_bytes - table + positions * shape.layers * row


def used_again(point: Point) -> int:
    """Bytes of shared layers' weights for all uses but the first."""
    alone = replace(point, recipe=replace(point.recipe, distinct_layers=0))
    return weight_bytes(alone) - weight_bytes(point)


def _traced_decode_bytes(point: Point) -> int:
    """The same of a traced model: what its operations read; experts that are chosen."""
    last = passes(point)[-1]
    read = sum(
        times * sum(op.weight_bytes for op in made if op.kind != "embedding")
        for times, made in parts(last)
    )
    return read + memory_footprint(point).kv_cache
