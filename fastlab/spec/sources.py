"""Where a model's name leads: a folder that holds one, or the hub. No torch."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from fastlab.spec.shape import PRESETS

CONFIG = "config.json"
PRESET_NAMES = ", ".join(PRESETS)


def check_source(model: str | Path, needs_weights: bool = False) -> None:
    """Refuse at once a name that leads to no model.

    ValueError for a folder that is missing or holds no model, OSError for a hub name
    where the hub cannot be reached. Presets are named as a way out, unless weights are
    needed: they have none.
    """
    instead = "" if needs_weights else f"; presets are {PRESET_NAMES}"
    if Path(model).exists():
        _check_folder(Path(model))
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
    proxied = any(name.lower() == "https_proxy" for name in os.environ)
    if proxied or not address.hostname:
        return True  # only the proxy knows; the hub's own client says what is wrong
    try:
        socket.create_connection((address.hostname, address.port or 443), 3).close()
    except OSError:
        return False
    return True
