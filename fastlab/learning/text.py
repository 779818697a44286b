"""Text to train on and text to judge by, with no download. No torch.

The standard library's sources and docstrings, which every Python brings, are split by
the hash of the module's name; text files of the user by the hash of each passage.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Folders that not every installation has, or that are no library code.
SKIPPED_FOLDERS = {
    *("test", "tests", "idle_test", "lib2to3", "site-packages", "dist-packages"),
    *("lib-dynload", "__pycache__", "pydoc_data", "turtledemo", "_pyrepl"),
}
# Written by a program: character tables, and what a build says about its own machine.
GENERATED = ("_sysconfigdata", "encodings.", "sre_constants", "__phello__")
ENCODINGS_KEPT = ("encodings.aliases", "encodings.idna", "encodings.punycode")
HELD_OUT_ONE_IN = 20
PASSAGE_CHARACTERS = 4096


@dataclass(frozen=True)
class Corpus:
    """Text in two parts that share nothing: one to train on, one to judge by.

    On another Python version the standard library's parts are others, with another
    sha256: losses on the two cannot be compared.
    """

    source: str
    train: str
    held_out: str

    @property
    def train_sha256(self) -> str:
        """sha256 of the training text in UTF-8, in hex."""
        return text_sha256(self.train)

    @property
    def held_out_sha256(self) -> str:
        """sha256 of the held-out text in UTF-8, in hex."""
        return text_sha256(self.held_out)


def text_sha256(text: str) -> str:
    """sha256 of the text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def stdlib_modules(root: Path | None = None) -> dict[str, Path]:
    """Dotted name -> file of the library's own modules, sorted by name.

    root: the library's folder, by default the running Python's. Tests, tables written
    by a program and what somebody installed are left out.
    """
    root = Path(root or sysconfig.get_path("stdlib"))
    modules = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        name = ".".join(parts)
        skipped = SKIPPED_FOLDERS.intersection(parts) or "config-" in name
        generated = name.startswith(GENERATED) and name not in ENCODINGS_KEPT
        if not skipped and not generated:
            modules[name] = path
    return dict(sorted(modules.items()))


def is_held_out(name: str) -> bool:
    """Whether the hash of a name puts it into the held-out part: one in 20."""
    first = hashlib.sha256(name.encode()).digest()[:8]
    return int.from_bytes(first, "big") % HELD_OUT_ONE_IN == 0


def stdlib_corpus(root: Path | None = None) -> Corpus:
    """The standard library of the running Python, split by module name."""
    train: list[str] = []
    held_out: list[str] = []
    for name, path in stdlib_modules(root).items():
        try:
            text = path.read_text(encoding="utf-8").strip("\n")
        except UnicodeDecodeError:
            continue  # a few sources are in other encodings
        if text:
            (held_out if is_held_out(name) else train).append(text)
    return Corpus("stdlib", "\n\n".join(train), "\n\n".join(held_out))


def file_corpus(paths: Sequence[str | Path]) -> Corpus:
    """Text files of the user, cut into passages that are split by their own hash.

    The twentieth with the lowest hashes is held out; equal passages fall on one side.
    Raises OSError for a file that cannot be read, ValueError for one that is not UTF-8
    or where one part would be empty.
    """
    hashed = [
        (text_sha256(piece), piece)
        for path in paths
        for piece in passages(_read_strictly(path))
    ]
    ranked = sorted({sha for sha, _ in hashed})
    if len(ranked) < 2:
        raise ValueError(
            f"text={[str(p) for p in paths]} is too short to hold a part of it out; "
            f"allowed: more than {PASSAGE_CHARACTERS} characters that are not all equal"
        )
    apart = set(ranked[: max(1, len(ranked) // HELD_OUT_ONE_IN)])
    train = "".join(piece for sha, piece in hashed if sha not in apart)
    held_out = "".join(piece for sha, piece in hashed if sha in apart)
    return Corpus(", ".join(Path(p).name for p in paths), train, held_out)


def _read_strictly(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"text={str(path)!r} must be UTF-8: {error}") from None
    except OSError as error:
        words = f"text={str(path)!r} cannot be read: {error.strerror}"
        raise type(error)(words) from None


def passages(text: str, characters: int = PASSAGE_CHARACTERS) -> list[str]:
    """The text cut after line ends into pieces of that many characters or a few more.

    A line longer than a passage is not cut. Joined, they are the text again.
    """
    pieces, piece, size = [], [], 0
    for line in text.splitlines(keepends=True):
        piece.append(line)
        size += len(line)
        if size >= characters:
            pieces.append("".join(piece))
            piece, size = [], 0
    return [*pieces, "".join(piece)] if piece else pieces


def corpus_of(paths: Sequence[str | Path] = ()) -> Corpus:
    """The corpus of these files, or the standard library where there are none."""
    return file_corpus(paths) if paths else stdlib_corpus()
