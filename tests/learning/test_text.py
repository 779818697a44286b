"""Text: what is read, how it is split, and how bits per byte are counted."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlab.learning.text import (
    Corpus,
    file_corpus,
    is_held_out,
    passages,
    stdlib_corpus,
    stdlib_modules,
)
from fastlab.learning.tokens import (
    Blocks,
    block_nats,
    blocks_and_bytes,
    bootstrap_ratio,
    byte_offsets,
    encode,
    make_tokenizer,
    text_loss,
    token_ids,
)
from fastlab.models import build
from fastlab.spec import point_of


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return stdlib_corpus()


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Any:
    return make_tokenizer(corpus.held_out, 512)


def library(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n", encoding="utf-8")
    return folder


def test_tests_tables_and_installed_packages_are_no_library(tmp_path):
    names = ["json/__init__.py", "json/decoder.py", "abc.py", "encodings/idna.py"]
    junk = [
        *("test/test_abc.py", "idlelib/idle_test/a.py", "site-packages/x.py"),
        *("encodings/cp037.py", "_sysconfigdata__linux.py", "lib2to3/pytree.py"),
        *("config-3.11-x86/a.py", "unittest/test/a.py", "ctypes/test/a.py"),
    ]
    found = stdlib_modules(library(tmp_path, names + junk))
    assert list(found) == ["abc", "encodings.idna", "json", "json.decoder"]


def test_the_split_is_the_first_eight_bytes_of_the_hash_modulo_20():
    for name in ("codecs", "tempfile", "os", "json.decoder"):
        number = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16)
        assert is_held_out(name) == (number % 20 == 0)
    assert is_held_out("tempfile") and not is_held_out("os")


def test_about_a_twentieth_of_the_library_is_held_out(corpus):
    share = len(corpus.held_out) / (len(corpus.train) + len(corpus.held_out))
    assert 0.02 < share < 0.10
    tempfile = Path(__import__("tempfile").__file__).read_text(encoding="utf-8")
    assert tempfile.strip("\n") in corpus.held_out
    assert tempfile.strip("\n") not in corpus.train


def test_a_users_files_are_cut_into_passages_that_are_split(tmp_path):
    lines = [f"line {n} of a long text that goes on and on\n" for n in range(20_000)]
    (tmp_path / "a.txt").write_text("".join(lines), encoding="utf-8")
    made = file_corpus([tmp_path / "a.txt"])
    assert made.source == "a.txt"
    together = sorted((made.train + made.held_out).splitlines(keepends=True))
    assert together == sorted(lines)
    assert 0.04 < len(made.held_out) / len("".join(lines)) < 0.06


def test_text_that_cannot_be_split_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(ValueError, match=r"too short to hold .* 4096 characters"):
        file_corpus([tmp_path / "a.txt"])
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="must be UTF-8"):
        file_corpus([tmp_path / "b.txt"])
    with pytest.raises(FileNotFoundError, match=r"text='.*c.txt' cannot be read: No s"):
        file_corpus([tmp_path / "c.txt"])


@given(st.text(), st.integers(1, 40))
def test_passages_join_to_the_text(text, characters):
    assert "".join(passages(text, characters)) == text


@given(st.text())
def test_byte_offsets_are_those_of_utf8(text):
    assert byte_offsets(text).tolist() == [
        len(text[:n].encode()) for n in range(len(text) + 1)
    ]


@settings(max_examples=50)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_from_its_tokens(tokenizer, text):
    ids, starts = encode(tokenizer, text)
    assert tokenizer.decode(ids.tolist()) == text
    assert len(ids) == len(starts)
    assert np.all(np.diff(starts) >= 0)


def test_an_epoch_reads_every_block_once_and_resumes_anywhere():
    ids = torch.arange(107, dtype=torch.int32)
    blocks = Blocks(ids, block=10, batch=3, seed=1)
    assert blocks.count == 9
    rows = torch.cat([blocks.at(step) for step in range(3)])
    assert rows.shape == (9, 11)
    assert len(set(rows[:, 0].tolist())) == 9
    assert torch.equal(rows[:, 1:], rows[:, :-1] + 1)
    assert len({int(start) % 10 for start in rows[:, 0]}) == 1
    assert torch.equal(Blocks(ids, 10, 3, 1).at(7), blocks.at(7))
    assert not torch.equal(Blocks(ids, 10, 3, 2).at(0), blocks.at(0))


def test_what_has_no_loss_is_refused(tokenizer):
    with pytest.raises(ValueError, match="vocab=256 must be a whole number from 257"):
        make_tokenizer("text", 256)
    with pytest.raises(ValueError, match="text of 10 tokens is shorter than one block"):
        Blocks(torch.arange(10), block=10, batch=1)
    with pytest.raises(ValueError, match="shorter than one block"):
        text_loss(build(point_of(model="tiny-llama")), tokenizer, "short", block=64)
    model = build(point_of(model="tiny-llama", vocab=300))
    with pytest.raises(ValueError, match=r"512 tokens does not fit .* vocab=300"):
        text_loss(model, tokenizer, "text " * 100, block=8)


def test_blocks_cover_a_text_without_gap_or_overlap(tokenizer):
    text = "for n in range(10): print('word', n)\n" * 9
    rows, sizes = blocks_and_bytes(tokenizer, text, 10)
    assert torch.equal(rows[1:, 0], rows[:-1, -1])
    parts = [tokenizer.decode(row[1:].tolist()) for row in rows]
    assert len(parts) == (len(token_ids(tokenizer, text)) - 1) // 10
    assert "".join(parts) in text
    assert sizes.sum(1).tolist() == [len(part.encode()) for part in parts]


def test_a_model_that_knows_nothing_costs_log2_vocab_a_token(tokenizer):
    """Zero logits: ln(512) nats for each token, whatever the text."""
    model = build(point_of(model="tiny-llama", tied=True))
    model.lm_head.weight.zero_()
    text = "import os\n\nprint(os.getcwd())\n" * 40
    found = text_loss(model, tokenizer, text, block=16)
    ids, starts = encode(tokenizer, text)
    assert found.perplexity == pytest.approx(512, rel=1e-5)
    assert found.tokens == found.blocks * 16 <= len(ids) - 1
    ends = [*starts, len(text.encode())]
    assert found.bytes == ends[found.tokens + 1] - ends[1]
    expected = math.log2(512) * found.tokens / found.bytes
    assert found.bits_per_byte == pytest.approx(expected, rel=1e-5)
    assert found.low <= found.bits_per_byte <= found.high


def test_block_losses_are_those_of_transformers(tokenizer):
    model = build(point_of(model="tiny-llama"))
    rows, _ = blocks_and_bytes(tokenizer, "for x in range(10): pass\n" * 20, 16)
    whole = model(rows[:1], labels=rows[:1]).loss
    assert block_nats(model, rows, 2)[0] == pytest.approx(16 * float(whole), rel=1e-5)


def test_the_bootstrap_has_the_width_that_theory_gives():
    """Blocks of equal size: the mean of n values, +- 1.96 s / sqrt(n)."""
    values = np.random.default_rng(5).normal(10, 2, 400)
    low, high = bootstrap_ratio(values, np.ones(400))
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert bootstrap_ratio(np.full(9, 3.0), np.full(9, 2)) == (1.5, 1.5)
