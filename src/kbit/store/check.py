"""What a model's folder may hold before anything in it is used: no code to run, no pickles, no JSON made to exhaust its reader."""

import codecs
import re
from pathlib import Path
from typing import Any

from kbit.core.brackets import nesting
from kbit.core.errors import FormatError, LimitError
from kbit.core.files import open_regular, read_json, storage_errors
from kbit.store.shards import INDEX_NAME, SINGLE_NAME, locate

__all__ = ["check_folder", "check_tokenizer", "load_tokenizer", "side_files"]

CONFIG_BYTES = 1 << 20
TOKENIZER_BYTES = 48 << 20
TOKENIZER_DEPTH = 64
TOKENIZER_BRACKETS = 2_000_000
PIECE_BYTES = 1 << 20

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_SIDE = re.compile(
    r"(tokenizer.*|special_tokens_map|added_tokens|vocab|merges|generation_config|preprocessor_config|processor_config|chat_template"
    r"|spiece|sentencepiece.*|source|target)\.(json|txt|model|jinja|spm)|LICENSE.*|NOTICE.*"
)
_OBJECT = re.compile(rb"[ \t\r\n]*+\{")


def check_folder(path: str | Path, *, allow_code: bool = False) -> dict[str, Any]:
    """Look at a model's folder without running or loading anything of it; returns its `config.json`.

    Args:
        path: the folder.
        allow_code: accept an `auto_map`, which names Python files for other libraries to run. kbit itself never runs them.

    Raises:
        FormatError: weights as pickles only, an `auto_map`, or JSON that is not what it should be.
        LimitError: JSON beyond any honest size.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FormatError(f"{folder}: expected a folder with config.json and {SINGLE_NAME}")
    if not (folder / SINGLE_NAME).exists() and not (folder / INDEX_NAME).exists():
        pickles = sorted(entry.name for entry in folder.iterdir() if entry.suffix in _PICKLES)
        if pickles:
            raise FormatError(
                f"{folder} has its weights as pickles only ({', '.join(pickles[:3])}), which run code when they are loaded: "
                f"convert them to safetensors first"
            )
    config = _read_object(folder, "config.json")
    _refuse_code(config, folder / "config.json", allow_code)
    if (folder / "tokenizer_config.json").exists():
        _refuse_code(_read_object(folder, "tokenizer_config.json"), folder / "tokenizer_config.json", allow_code)
    if (folder / "tokenizer.json").exists():
        check_tokenizer(locate(folder, "tokenizer.json"))
    return config


def check_tokenizer(path: str | Path) -> None:
    """Hold a `tokenizer.json` to a size, a depth and UTF-8, without building what is in it.

    Raises:
        FormatError, LimitError: with the file and the offset.
    """
    path = Path(path)
    with open_regular(path) as file, storage_errors(path, "read"):
        data = file.read(TOKENIZER_BYTES + 1)
    if len(data) > TOKENIZER_BYTES:
        raise LimitError(f"{path}: expected at most {TOKENIZER_BYTES} bytes, got more")
    _check_utf8(data, path)
    if data.count(b"[") + data.count(b"{") > TOKENIZER_BRACKETS:
        raise LimitError(f"{path}: expected at most {TOKENIZER_BRACKETS} brackets, got more")
    found = nesting(data, TOKENIZER_DEPTH)
    if found.outside >= 0:
        raise FormatError(f"{path}: byte {found.outside}: expected balanced brackets at most {TOKENIZER_DEPTH} deep")
    if found.left or not _OBJECT.match(data):
        raise FormatError(f"{path}: expected a JSON object, got {data[:20]!r}… with {found.left} brackets left open")


def load_tokenizer(path: str | Path) -> Any:
    """A `tokenizers.Tokenizer` from a `tokenizer.json` that `check_tokenizer` accepts.

    Raises:
        FormatError: the tokenizers library refuses it, in whatever way.
    """
    from tokenizers import Tokenizer

    check_tokenizer(path)
    try:
        return Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and its panics derive from BaseException
        raise FormatError(f"{path}: not a tokenizer: {error}") from None


def side_files(folder: str | Path) -> list[Path]:
    """Tokenizer, generation settings and licence of a model: what goes along when its weights are encoded. Never weights or code."""
    folder = Path(folder)
    return [locate(folder, entry.name) for entry in sorted(folder.iterdir()) if _SIDE.fullmatch(entry.name) and entry.is_file()]


def _read_object(folder: Path, name: str) -> dict[str, Any]:
    path = locate(folder, name)
    value = read_json(path, max_bytes=CONFIG_BYTES)
    if not isinstance(value, dict):
        raise FormatError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _refuse_code(value: Any, path: Path, allow_code: bool) -> None:
    if allow_code:
        return
    values = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if isinstance(value, dict) and value.get("auto_map"):
        raise FormatError(f"{path}: field 'auto_map' names Python files of the model to run: refused unless allowed explicitly")
    for item in values:
        _refuse_code(item, path, allow_code)


def _check_utf8(data: bytes, path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(data) + 1, PIECE_BYTES):
        try:
            text = decoder.decode(data[at : at + PIECE_BYTES], final=at + PIECE_BYTES > len(data))
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{path}: expected UTF-8, got byte 0x{error.object[error.start]:02x} near offset {at + error.start}"
            ) from None
        if "\0" in text:
            raise FormatError(f"{path}: expected text, got NUL after offset {at}")
