"""What a model's folder says of how its texts begin and end: ``generation_config.json`` goes before ``config.json``."""

from pathlib import Path
from typing import Any

from kbit.core.files import read_json
from kbit.store.check import check_folder

__all__ = ["generation_settings", "special_tokens"]


def generation_settings(path: Path) -> dict[str, Any]:
    """Keys of both files."""
    return check_folder(path) | _generation_config(path / "generation_config.json")


def special_tokens(path: Path) -> tuple[int | None, frozenset[int]]:
    """The token that begins a text, and those that end one."""
    settings = generation_settings(path)
    bos, ends = settings.get("bos_token_id"), settings.get("eos_token_id")
    found = ends if isinstance(ends, list) else [ends]
    return bos if isinstance(bos, int) else None, frozenset(end for end in found if isinstance(end, int))


def _generation_config(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    found = read_json(file)
    return {key: value for key, value in found.items() if value is not None} if isinstance(found, dict) else {}
