"""The article's complexity formula, as printed and as corrected.

It counts one H x H product per layer, nothing of the attention, the MLP's real width
or the vocabulary head, and gets its own multiplications wrong.
"""

from __future__ import annotations

LINES = {  # of the article's section 4.3: what is wrong with each
    "forward: 2·12·(1024·768²)": (
        "one H×H product a layer; there are 12, attention, and the head"
    ),
    "twice that, with a backward pass": "inference has no backward pass",
    "pruned: 2·3·(1024·512²)": "the vocabulary head did not shrink with the layers",
    "16 bit: 1.5·10⁸ / 8": "1.5·10⁹ lost a zero; 16 bit halves bytes, not operations",
    "faster by 2.5·10⁹ / 1.75·10⁷": "FLOPs saved; the time saved has to be measured",
    "attention is O(n³): n doubles": "n² pairs of H numbers each: O(n² H)",
}


def article_as_printed(n: int, layers: int, hidden: int) -> int:
    """2 L (n H^2): the article's formula with its multiplication done right."""
    return 2 * layers * n * hidden**2


def article_corrected(n: int, layers: int, hidden: int, vocab: int) -> int:
    """FLOPs of a GPT-2 of these sizes: L (24 n H^2 + 4 n^2 H) + 2 n H V.

    12 H^2 weights a layer give 24 n H^2; attention is O(n^2 H), not O(n^3).
    """
    layer = 24 * n * hidden**2 + 4 * n**2 * hidden
    return layers * layer + 2 * n * hidden * vocab
