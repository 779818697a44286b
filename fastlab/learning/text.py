"""Text to train on and text to judge by, with no download. No torch.

The standard library's sources and docstrings, which every Python brings, are split by
the hash of the module's name; text files of the user by the hash of each passage.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Sequence
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
SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Corpus:
    """Text in two parts that share nothing: one to train on, one to judge by."""

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

    def differs(self, held_out_sha256: str) -> bool:
        """Whether this held-out text is another than the one with that sha256.

        So it is on another Python version: losses on the two cannot be compared.
        """
        return self.held_out_sha256 != held_out_sha256


def text_sha256(text: str) -> str:
    """sha256 of the text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def stdlib_modules(root: Path | None = None) -> dict[str, Path]:
    """Dotted name -> file of the library's own modules, sorted by name.

    root: the library's folder, by default the running Python's. Tests, tables written
    by a program and what somebody installed are left out.
    """
    root = Path(root or sysconfig.get_path("stdlib"))
    found = {_dotted(p.relative_to(root)): p for p in root.rglob("*.py")}
    return {name: found[name] for name in sorted(found) if _wanted(name)}


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[:-1] else parts)


def _wanted(name: str) -> bool:
    parts = name.split(".")
    if set(parts) & SKIPPED_FOLDERS or any("config-" in part for part in parts):
        return False
    return name in ENCODINGS_KEPT or not name.startswith(GENERATED)


def is_held_out(name: str) -> bool:
    """Whether the hash of a name puts it into the held-out part: one in 20."""
    first = hashlib.sha256(name.encode()).digest()[:8]
    return int.from_bytes(first, "big") % HELD_OUT_ONE_IN == 0


def stdlib_corpus(root: Path | None = None) -> Corpus:
    """The standard library of the running Python, split by module name."""
    modules = stdlib_modules(root)
    held_out = [path for name, path in modules.items() if is_held_out(name)]
    train = [path for name, path in modules.items() if not is_held_out(name)]
    return Corpus("stdlib", _joined(train), _joined(held_out))


def _joined(paths: Iterable[Path]) -> str:
    texts = (_read(path).strip("\n") for path in paths)
    return SEPARATOR.join(text for text in texts if text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""  # a few sources are in other encodings: left out


def file_corpus(paths: Sequence[str | Path]) -> Corpus:
    """Text files of the user, cut into passages that are split by their own hash.

    The twentieth with the lowest hashes is held out; equal passages fall on one side.
    Raises OSError for a file that cannot be read, ValueError for one that is not UTF-8
    or where one part would be empty.
    """
    pieces = [piece for path in paths for piece in passages(_read_strictly(path))]
    ranked = sorted({text_sha256(piece) for piece in pieces})
    if len(ranked) < 2:
        raise ValueError(
            f"text={[str(p) for p in paths]} is too short to hold a part of it out; "
            f"allowed: more than {PASSAGE_CHARACTERS} characters that are not all equal"
        )
    apart = set(ranked[: max(1, len(ranked) // HELD_OUT_ONE_IN)])
    sides = [(piece, text_sha256(piece) in apart) for piece in pieces]
    train = "".join(piece for piece, out in sides if not out)
    held_out = "".join(piece for piece, out in sides if out)
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
