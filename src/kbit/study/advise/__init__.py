"""Which model at which scheme, for a memory, a speed and a loss: before anything is downloaded.

    footprint    bytes from a configuration alone     models   known families, folders
    candidates   every model under every scheme       choose   what fits, the frontier, three options

The loss comes from a law fitted to rows (by default from published ones: perplexity of WikiText-2), with its interval; the speed from the
roofs of this machine, measured when it is asked.
"""

from collections.abc import Sequence
from pathlib import Path

from kbit.core.errors import ModelError, NumericsError
from kbit.engine.cache import CacheFormat
from kbit.study.advise.candidates import SCHEMES, Candidate, Roofs, make_candidates, measure_roofs
from kbit.study.advise.choose import Advice, Limits, Option, choose
from kbit.study.advise.measured import measure_loss
from kbit.study.advise.models import Choice, find_models
from kbit.study.book import LawBook

__all__ = ["SCHEMES", "Advice", "Candidate", "Limits", "Option", "Roofs", "advise"]


def advise(
    memory_bytes: int,
    *,
    family: str | None = None,
    models: Sequence[str] | None = None,
    min_tokens_per_s: float | None = None,
    max_loss: float | None = None,
    context: int = 4096,
    cache: CacheFormat = "fp16",
    schemes: Sequence[str] = SCHEMES,
    embedding: str = "16",
    law: LawBook | str | Path | None = None,
    measure: str | Path | None = None,
    seconds: float = 60.0,
    roofs: Roofs | None = None,
    threads: int = 0,
) -> Advice:
    """Advice on what to run.

    Args:
        memory_bytes: for weights, cache, workspace and the process.
        family: of known models, or what rows of the law call the family of `models`.
        models: names of known models, or folders with a ``config.json``; None for all of the family.
        min_tokens_per_s: of decoding with a full context.
        max_loss: expected nats a token, on the text of the law.
        context: positions of the cache.
        cache: how it keeps keys and values.
        schemes: to try on each model.
        embedding: scheme of embedding and head.
        law: or its file; None for the one that comes with the package.
        measure: a text to measure the originals on, so that the law says only what encoding adds; all models are folders with weights then.
        seconds: that measuring one may take.
        roofs: of the machine; measured where they are not given (a second).
        threads: to measure and run with; 0 for all that may be used.

    Raises:
        SchemeError: neither family nor models, an unknown name, or a scheme that cannot be read.
        ModelError: an architecture that is not known, or no model that knows so many positions.
        NumericsError: a limit that is not positive.
        FormatError, StorageError: a law or a configuration that cannot be read.
    """
    for name, value in (("memory", memory_bytes), ("context", context), ("min_speed", min_tokens_per_s), ("max_loss", max_loss)):
        if value is not None and not 0 < value < float("inf"):
            raise NumericsError(f"{name}: expected a number above 0, got {value!r}")
    book = law if isinstance(law, LawBook) else LawBook.load(law)
    latency = book.latency or LawBook.load().latency
    assert latency is not None, "the package's law tells speed"
    choices = find_models(list(models) if models else None, family)
    measured = None if measure is None else {choice.name: measure_loss(_folder(choice), measure, seconds) for choice in choices}
    candidates = make_candidates(
        choices,
        schemes,
        book,
        latency,
        roofs or measure_roofs(threads),
        context=context,
        cache=cache,
        embedding=embedding,
        measured=measured,
    )
    if not candidates:
        longest = max(choice.shape.context for choice in choices)
        raise ModelError(f"expected a context of at most {longest} positions, which {choices[0].family} knows, got {context}")
    return choose(candidates, Limits(int(memory_bytes), min_tokens_per_s, max_loss))


def _folder(choice: Choice) -> Path:
    if choice.folder is None:
        raise ModelError(f"{choice.name}: expected a folder with weights to measure, got the name of a known model")
    return choice.folder
