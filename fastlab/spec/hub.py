"""Where a model's name leads: a folder or the hub; its files and identity. No torch."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from fastlab.spec.shape import PRESETS

CONFIG = "config.json"
WORDS = 400  # characters of an error of transformers, at most
OWN_CODE = "needs code of its own (auto_map), which fastlab does not run"
LFS = b"version https://git-lfs"


@contextmanager
def in_one_line(model: str | Path) -> Iterator[None]:
    """What transformers raises over a model's files, as one line: OSError, ValueError.

    Only where memory runs out it passes as it is.
    """
    try:
        yield
    except Exception as error:
        words = str(error) if " " in str(error) else repr(error)
        words = " ".join(words.split()).partition(" This could be ")[0][:WORDS]
        said = words.startswith(f"model={str(model)!r}")  # by a call within
        if said or isinstance(error, MemoryError) or "out of memory" in words:
            raise
        words = OWN_CODE if "trust_remote_code" in str(error) else words
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"model={str(model)!r}: {words}") from error


def local_folder(source: str | Path) -> Path:
    """The folder of a local model, or of a hub's, which is fetched where it must be.

    Raises OSError where neither can be had, ValueError for a folder without a model.
    """
    check_source(source, needs_weights=True)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.txt", "*.model"]
    return Path(snapshot_download(str(source), allow_patterns=wanted))


def weights_id(folder: str | Path) -> str:
    """ "trained:<sha256>" of a local folder's safetensors files; FileNotFoundError."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no .safetensors file")
    stats = [(str(file.resolve()), file.stat()) for file in files]
    return _weights_id(tuple((p, s.st_size, s.st_mtime_ns) for p, s in stats))


@lru_cache(maxsize=64)
def _weights_id(files: tuple[tuple[str, int, int], ...]) -> str:
    return f"trained:{sha256_of(*(Path(path) for path, _, _ in files))}"


def sha256_of(*files: Path) -> str:
    """sha256 of the files' bytes, one after the other, in hex."""
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            hashlib.file_digest(handle, lambda: sha)
    return sha.hexdigest()


def check_source(model: str | Path, needs_weights: bool = False) -> None:
    """Refuse at once a name that leads to no model.

    ValueError for a folder that is missing or holds no model, OSError for a hub name
    where the hub cannot be reached. Presets are named as a way out, unless weights are
    needed: they have none.
    """
    instead = "" if needs_weights else f"; presets are {', '.join(PRESETS)}"
    if Path(model).exists():
        _check_folder(Path(model))
        if needs_weights:
            _check_weights(Path(model))
    elif not _may_be_on_hub(str(model)):
        raise ValueError(
            f"model={str(model)!r}: no such folder{instead}; "
            "a hub name is owner/name, as openai-community/gpt2"
        )
    elif not _hub_answers(str(model)):
        shape_only = needs_weights and str(model) in PRESETS
        preset = "is a preset, which has no weights, " if shape_only else "is "
        raise OSError(
            f"model={str(model)!r} {preset}no folder here, and huggingface.co cannot "
            f"be reached: give the folder of a downloaded model{instead}"
        )


def _check_folder(folder: Path) -> None:
    if (folder / CONFIG).is_file():
        return
    if not folder.is_dir():
        raise ValueError(f"model={str(folder)!r} is a file; give the folder it is in")
    inside = sorted(str(path.parent) for path in folder.glob(f"*/{CONFIG}"))
    verb = "model is" if len(inside) == 1 else "models are"
    where = f": the {verb} in {', '.join(inside)}" if inside else ""
    raise ValueError(f"model={str(folder)!r} holds no {CONFIG}{where}")


def _check_weights(folder: Path) -> None:
    """Refuse safetensors files that are cut off, or something else."""
    from safetensors import safe_open

    for file in sorted(folder.glob("model*.safetensors")):
        if file.stat().st_size < 1024 and file.read_bytes().startswith(LFS):
            why = "a pointer of Git LFS, not the weights: run `git lfs pull`"
            raise ValueError(f"{file} is {why}")
        with in_one_line(file), safe_open(file, "numpy"):
            pass


def _may_be_on_hub(model: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True


def _hub_answers(model: str) -> bool:
    """Whether a model could come from the hub: kept here, or the hub can be reached."""
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(model, CONFIG), str):
        return True
    if constants.HF_HUB_OFFLINE:
        return False
    address = urlsplit(constants.ENDPOINT)
    if "https" in getproxies() or not address.hostname:
        return True  # only the proxy knows; the hub's own client says what is wrong
    try:
        socket.create_connection((address.hostname, address.port or 443), 3).close()
    except OSError:
        return False
    return True
