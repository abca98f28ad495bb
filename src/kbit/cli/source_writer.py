"""`SourceWriter`: what `kbit run` writes for a text with a model that encodes it and decodes another."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kbit.cli.generation_config import generation_settings, special_tokens
from kbit.core.errors import ModelError
from kbit.engine.engine_pair import EncoderDecoderEngine
from kbit.engine.generate import stream_generate
from kbit.engine.generate_options import GenerateOptions
from kbit.engine.generated import Generated
from kbit.engine.prompts import text_ids
from kbit.evaluate.models import load_tokenizer

__all__ = ["SourceWriter"]


class SourceWriter:
    """Writes with kbit's engine; needs no torch.

    Args:
        path: folder of the model.
        options: of the engine.

    Attributes:
        begins: tokens that its texts begin with: the one that the decoder starts from, and the one that always follows, if any.
        forbidden: tokens that it must not write.

    Raises:
        ModelError: not such a model, one that the engine does not know, or one that does not say what its texts begin with.
    """

    name = "engine"
    continues = False

    def __init__(self, path: Path, **options: Any) -> None:
        self.engine, self.tokenizer = EncoderDecoderEngine.load(path, **options), load_tokenizer(path)
        settings = generation_settings(path)
        start, forced = settings.get("decoder_start_token_id", self.engine.start), settings.get("forced_bos_token_id")
        if not isinstance(start, int):
            raise ModelError(f"{path}: 'decoder_start_token_id': expected the token that a text begins with, got {start!r}")
        self.begins = [start, *([forced] if isinstance(forced, int) else [])]
        self.forbidden = [token for token in _bad_tokens(settings.get("bad_words_ids")) if 0 <= token < self.engine.vocabulary]
        _, self.ends = special_tokens(path)

    def write(self, prompt: str, options: GenerateOptions, stream: Callable[[str], None] | None = None) -> Generated:
        """See `kbit.cli.writer.Writer.write`; the time in which the text was encoded is part of the prefill's."""
        bias = dict.fromkeys(self.forbidden, float("-inf")) | dict(options.sampling.logit_bias)
        options = replace(options, ends=options.ends | self.ends, sampling=replace(options.sampling, logit_bias=bias))
        started = time.perf_counter()
        with self.engine.source(text_ids(prompt, self.tokenizer)) as stepper:
            encode_ms = 1e3 * (time.perf_counter() - started)
            with stream_generate(stepper, self.tokenizer, self.begins, options) as pieces:
                for piece in pieces:
                    if stream is not None:
                        stream(piece)
                return replace(pieces.result, prefill_ms=pieces.result.prefill_ms + encode_ms)


def _bad_tokens(words: Any) -> list[int]:
    """Those of one token among the words that a model must not write (Marian's padding)."""
    words = words if isinstance(words, list) else []
    return [word[0] for word in words if isinstance(word, list) and len(word) == 1 and isinstance(word[0], int)]
