"""The exercises of notebook 08: a cache in bytes, MBU, the crossover, unrolling."""

from __future__ import annotations

from fastlab.view.check.exercise import formula, number
from fastlab.view.check.q02 import choice

q08_1 = formula(
    "08_1",
    lambda layers, kv_heads, head_dim, tokens: (
        4 * layers * kv_heads * head_dim * tokens
    ),
    tries=[(32, 8, 128, 1), (24, 2, 64, 1000), (12, 12, 64, 1024)],
    why="keys and values (2), each of layers x kv_heads x head_dim numbers of 2 bytes "
    "for every token: 131,072 bytes a token for Llama-3.1-8B.",
    wrong=[
        (
            lambda layers, kv_heads, head_dim, tokens: (
                2 * layers * kv_heads * head_dim * tokens
            ),
            "half of it is missing: either values beside keys, or 2 bytes a number",
        ),
        (
            lambda layers, kv_heads, head_dim, tokens: 4 * kv_heads * head_dim * tokens,
            "that is one layer: each layer keeps keys and values of its own",
        ),
        (
            lambda layers, kv_heads, head_dim, tokens: 4 * layers * head_dim * tokens,
            "that is one head: multiply by kv_heads, which GQA makes few",
        ),
        (
            lambda layers, kv_heads, head_dim, tokens: 4 * layers * kv_heads * head_dim,
            "that is one token: the cache grows with every token",
        ),
        (
            lambda layers, kv_heads, head_dim, tokens: (
                4 * layers * kv_heads * head_dim * tokens**2
            ),
            "scores grow with tokens squared, but nobody keeps them",
        ),
    ],
    otherwise="2 (keys, values) x layers x kv_heads x head_dim x tokens x 2 bytes.",
)

q08_2 = number(
    "08_2",
    80.05333333333333,
    why="15.01 GB x 256 a second = 3,843 GB/s, 80 % of 4,800. At batch 1 tokens per "
    "second are bandwidth x MBU / bytes, and nothing else.",
    wrong=[
        (0.8005333333333333, "right as a fraction: the question asks for per cent"),
        (40.02666666666667, "15.01 GB are bytes already: nothing to halve"),
        (160.10666666666666, "15.01 GB are bytes already: a bf16 number has 2 of them"),
        (320 / 256 * 100, "upside down: that is the roof over the measured speed"),
        (5.333333333333333, "that is 256 / 4800: how many GB does each token read?"),
    ],
    otherwise="bytes read a token x tokens a second / bandwidth, times 100.",
)

q08_3 = number(
    "08_3",
    15.01e9 / 131072 / 8,
    why="eight sequences read 8 x 131,072 bytes for each token of context, 1.05 MB, "
    "and 15.01 GB / 1.05 MB = 14,315. For one sequence it would be 114,517.",
    wrong=[
        (15.01e9 / 131072, "that is batch 1: weights are read once for all sequences, "
         "but each sequence has a cache of its own"),
        (15.01e9 / 131072 * 8, "a larger batch reads more cache: divide by it"),
        (15.01e9 / 131072 / 8 / 2, "131,072 holds keys and values already"),
        (15.01e9 / 131072 / 8 / 4, "131,072 counts the 8 heads of keys and values; "
         "that 32 query heads share them changes nothing"),
        (15.01e9 / 131072 / 64, "the batch enters once, not squared"),
    ],
    otherwise="context x batch x bytes a token = bytes of the weights: which context?",
)  # fmt: skip

q08_4 = choice(
    "08_4",
    "b",
    "abcd",
    why="a call hands over k steps at once, so its price is shared by k tokens. What "
    "each step reads and computes stays; tokens after an EOS within the k are waste.",
    wrong=[
        ("a", "every step still reads all weights once: the next token needs this one"),
        (
            "c",
            "all k steps are compiled or captured: more to compile, not less",
        ),
        ("d", "the steps still wait for one another: token 2 is made of token 1"),
    ],
    otherwise="ask which of them happens once a call, and which once a step.",
)
