"""Who writes for `kbit run` and the demo: the engine, and transformers for an architecture that the engine does not know."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from kbit.cli.generation_config import special_tokens
from kbit.cli.source_writer import SourceWriter
from kbit.core.errors import ModelError
from kbit.engine.architectures import ENCODER_DECODER_TYPES
from kbit.engine.engine import Engine
from kbit.engine.generate import stream_generate
from kbit.engine.generate_options import GenerateOptions
from kbit.engine.generated import Generated
from kbit.evaluate.models import load_tokenizer
from kbit.store.check import check_folder

__all__ = ["EngineWriter", "Writer", "open_writer"]

Stream = Callable[[str], None]


class Writer(Protocol):
    """A model with its tokenizer.

    Attributes:
        name: ``engine`` or ``transformers``.
        continues: the prompt is continued; False where another text is written for it.
    """

    name: str
    continues: bool

    def write(self, prompt: str, options: GenerateOptions, stream: Stream | None = None) -> Generated:
        """Continue a prompt; `stream` gets the text piece by piece. The model's own ending tokens are added to those of `options`."""


class EngineWriter:
    """Writes with kbit's engine; needs no torch.

    Args:
        path: folder of the model.
        options: of the engine.

    Raises:
        ModelError: an architecture that the engine does not know, or an encoder.
    """

    name = "engine"
    continues = True

    def __init__(self, path: Path, **options: Any) -> None:
        self.engine, self.tokenizer = Engine.load(path, **options), load_tokenizer(path)
        if not self.engine.plan.causal:
            raise ModelError(f"expected a causal language model, got {self.engine.plan.architecture}, an encoder")
        self.bos, self.ends = special_tokens(path)

    def write(self, prompt: str, options: GenerateOptions, stream: Stream | None = None) -> Generated:
        """See `Writer.write`."""
        options = replace(options, ends=options.ends | self.ends)
        with stream_generate(self.engine, self.tokenizer, prompt, options, bos=self.bos) as pieces:
            for piece in pieces:
                if stream is not None:
                    stream(piece)
            return pieces.result


class TransformersWriter:
    """Writes through transformers' `generate`."""

    name = "transformers"
    continues = True

    def __init__(self, path: Path, *, mode: str) -> None:
        from kbit.evaluate.models import load_causal_model

        self.model, self.tokenizer = load_causal_model(path, mode=mode), load_tokenizer(path)

    def write(self, prompt: str, options: GenerateOptions, stream: Stream | None = None) -> Generated:
        """See `Writer.write`."""
        from kbit.cli.generation import generate

        return generate(self.model, self.tokenizer, prompt, options, stream=stream)


def open_writer(path: Path, *, mode: str = "fast", bits: int | None = None, **options: Any) -> Writer:
    """The engine over a model's folder, or transformers where the engine does not know the architecture.

    Args:
        path: the folder.
        mode: arithmetic of packed layers.
        bits: run the first so many bits of nested codes or cascades, which the engine alone does.
        options: of the engine.
    """
    options["bits"] = bits
    if check_folder(path).get("model_type") in ENCODER_DECODER_TYPES:
        return SourceWriter(path, mode=mode, **options)
    try:
        return EngineWriter(path, mode=mode, **options)
    except ModelError:
        if bits is not None:
            raise
        return TransformersWriter(path, mode=mode)
