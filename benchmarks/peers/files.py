"""Random checkpoints, and each engine's version of them: made once, kept in one folder."""

import shutil
import subprocess
from pathlib import Path

from checkpoint import Config, llama, write_checkpoint, write_tokenizer
from peers.catalogue import Engine

__all__ = ["MODELS", "FailureError", "checkpoint_of", "file_bytes", "version_of"]

CONTEXT = 8192
MODELS: dict[str, Config] = {
    "1b": llama(32000, 2048, 8192, 16, 32, 8, context=CONTEXT),
    "30m": llama(4096, 512, 1536, 8, 8, 4, context=CONTEXT),
}
#: what a folder holds besides the model
NOT_THE_MODEL = ("tokenizer", "openvino_tokenizer", "openvino_detokenizer", "vocabulary")
MAKE_SECONDS = 1800


class FailureError(Exception):
    """An engine did not do what it was asked; the text is the reason that is reported."""


def checkpoint_of(folder: Path, model: str) -> Path:
    """The checkpoint of a model in bfloat16, with a tokenizer."""
    path = folder / model / "checkpoint"
    if not path.exists():
        print(f"{model}: writing the checkpoint …", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name("checkpoint.part")
        shutil.rmtree(part, ignore_errors=True)
        write_checkpoint(part, MODELS[model])
        write_tokenizer(part, MODELS[model]["vocab_size"])
        part.rename(path)
    return path


def version_of(checkpoint: Path, engine: Engine, kind: str) -> Path:
    """An engine's version of a checkpoint.

    Raises:
        FailureError: the engine is not installed, or does not make it.
    """
    if reason := engine.missing():
        raise FailureError(reason)
    path = checkpoint.with_name(engine.file_name(kind))
    command = engine.make(checkpoint, path, kind)
    if command is None:
        return checkpoint
    done = path.with_name(path.name + ".done")
    if not done.exists():
        _remove(path)
        print(f"{checkpoint.parent.name}: making {path.name} …", flush=True)
        _make(command, engine, path.with_name(path.name + ".log"))
        done.touch()
    return path


def file_bytes(path: Path) -> int:
    """Size of a model without its tokenizer."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.name.startswith(NOT_THE_MODEL))


def last_line(log: Path) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _make(command: list[str], engine: Engine, log: Path) -> None:
    try:
        with log.open("wb") as out:
            environment = engine.environment(threads=2)
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, timeout=MAKE_SECONDS)
    except subprocess.CalledProcessError as error:
        raise FailureError(f"not converted: {last_line(log)} (exit status {error.returncode})") from None
    except subprocess.TimeoutExpired:
        raise FailureError(f"not converted within {MAKE_SECONDS} s") from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
