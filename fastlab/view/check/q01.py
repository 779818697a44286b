"""The exercises of notebook 01: counting FLOPs, bytes and parameters by hand."""

from __future__ import annotations

from fastlab.view.check.exercise import formula, number

q01_1 = formula(
    "01_1",
    lambda tokens, inputs, outputs: 2 * tokens * inputs * outputs,
    tries=[(1, 3, 5), (7, 64, 256), (512, 768, 3072)],
    why="every output of every token sums up `inputs` products: one multiplication and "
    "one addition each.",
    wrong=[
        (
            lambda tokens, inputs, outputs: tokens * inputs * outputs,
            "you counted MACs: a multiply-add is two FLOPs",
        ),
        (
            lambda tokens, inputs, outputs: 2 * inputs * outputs,
            "that is one token's work: every token goes through the layer",
        ),
        (
            lambda tokens, inputs, outputs: 2 * tokens * (inputs + outputs),
            "those are the values that go in and out: that many numbers are moved, but "
            "each output needs a product with every input",
        ),
        (
            lambda tokens, inputs, outputs: 2 * tokens * inputs**2,
            "that holds for a square layer only: the MLP has more outputs than inputs",
        ),
    ],
    otherwise="how many outputs are there for all tokens, how many products does each "
    "sum up, and how many FLOPs is a product with its addition?",
)

q01_2 = formula(
    "01_2",
    lambda layers, heads, kv_heads, head_dim, tokens, size: (
        2 * layers * kv_heads * head_dim * tokens * size
    ),
    tries=[(16, 32, 8, 64, 512, 2), (2, 4, 2, 16, 10, 4), (12, 12, 3, 64, 1, 2)],
    why="each layer keeps a key and a value (2), of head_dim numbers for every KV head "
    "and token. The other heads share them: that is what GQA saves.",
    wrong=[
        (
            lambda layers, heads, kv_heads, head_dim, tokens, size: (
                layers * kv_heads * head_dim * tokens * size
            ),
            "half of it: keys and values are both kept",
        ),
        (
            lambda layers, heads, kv_heads, head_dim, tokens, size: (
                2 * layers * heads * head_dim * tokens * size
            ),
            "you kept keys and values for every query head: with GQA several of them "
            "share one KV head",
        ),
        (
            lambda layers, heads, kv_heads, head_dim, tokens, size: (
                2 * layers * kv_heads * head_dim * tokens
            ),
            "those are numbers, not bytes: how many bytes has each?",
        ),
        (
            lambda layers, heads, kv_heads, head_dim, tokens, size: (
                2 * kv_heads * head_dim * tokens * size
            ),
            "that is one layer's cache: every layer has its own keys and values",
        ),
        (
            lambda layers, heads, kv_heads, head_dim, tokens, size: (
                2 * layers * heads * kv_heads * head_dim * tokens * size
            ),
            "query heads leave nothing behind: only KV heads count",
        ),
    ],
    otherwise="one token leaves a key and a value in each layer; how many numbers is "
    "each, how many bytes a number, and how many tokens are there?",
)

q01_3 = number(
    "01_3",
    262.668288,
    why="an untied head is a second table of vocabulary x hidden: 128,256 x 2,048. "
    "The FLOPs stay: a tied head is multiplied all the same.",
    wrong=[
        (0.0, "tied means that the head has no weights of its own; untied it has"),
        (525.336576, "that counts the table twice, or its bytes in bf16: the embedding "
         "is there already, and parameters are counted, not bytes"),
        (0.128256, "one number for each token of the vocabulary would be a bias: the "
         "head holds a vector of hidden size for each"),
        (262668288.0, "right number, wrong unit: the question asks for millions"),
        (1498.482688, "that is the whole model untied; the surplus is asked for"),
    ],
    otherwise="the head turns a vector of 2,048 numbers into 128,256 scores: how many "
    "weights does that matrix have?",
)  # fmt: skip
