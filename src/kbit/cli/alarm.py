"""Whether an encoded model lost what it should have: an alarm for an encoding that is likely broken.

The check of `kbit quantize` (`kbit.allocate.gate`) ends a run whose loss nothing explains. What it measured is held against a narrower band
around what the original lost on the same tokens:

    a law that was given, or the published rows where they know the family     the 90 % interval of the law for size and schemes
    else                                                                       `SPREAD` times what errors of the codes explain

Either is widened by chance: on n tokens the difference of two models that are KL apart has a deviation of about √(2·KL / n).
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbit.core.scheme import Scheme

if TYPE_CHECKING:
    from kbit.allocate.gate import Checked
    from kbit.store.manifest import Module
    from kbit.study.book import LawBook

__all__ = ["SPREAD", "Band", "describe", "predicted_band"]

#: deviations of chance that a band is widened by
_REACH = 3.0
#: losses of sound encodings that were measured end at 2 times what Gaussian errors of their codes explain (`kbit.allocate.band`)
SPREAD = 3.0
#: nats that any encoding may lose, or gain by chance
_LEAST = 0.02
_HIGHEST = 700.0


@dataclass(frozen=True, slots=True)
class Band:
    """Perplexities that a sound encoding ends in, on the tokens of the check.

    Attributes:
        perplexity: of the encoded model.
        low, high: ends of the band.
        by: what says so.
        alarm: the perplexity lies outside.
    """

    perplexity: float
    low: float
    high: float
    by: str
    alarm: bool

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return asdict(self)


def predicted_band(
    checked: "Checked", source: Path, modules: "Mapping[str, Module]", params: int, law: str | None, book: "LawBook | None" = None
) -> Band | None:
    """The band of an encoding, and whether it lies in it; None where nothing was measured.

    Args:
        checked: what the check found.
        source: folder of the original, whose name begins with that of its family.
        modules: what is encoded.
        params: of the whole model.
        law: file of laws; None for those of published rows.
        book: the laws, if they are read already.

    Raises:
        FormatError, StorageError: a law that cannot be read.
    """
    from kbit.study.book import LawBook

    if checked.kl is None or checked.loss is None or checked.reference_loss is None:
        return None
    book = book or LawBook.load(law)
    series = _series(book, source.absolute().name)
    found = None
    if law is not None or series is not None:
        family, dataset, context = series or (source.absolute().name, "text", 512)
        facts = {"family": family, "dataset": dataset, "context": context, "params": params}
        found = _by_law(book, facts, _shares(modules))
    if found is None:
        from kbit.allocate.band import expected_kl

        found, by = (-_LEAST, max(SPREAD * expected_kl(modules), _LEAST)), "the errors of its codes"
    else:
        by = f"the law of {law or 'published rows'}"
    chance = _REACH * math.sqrt(2 * checked.kl / checked.tokens)
    low, high = (math.exp(min(checked.reference_loss + end, _HIGHEST)) for end in (found[0] - chance, found[1] + chance))
    perplexity = math.exp(min(checked.loss, _HIGHEST))
    return Band(perplexity, low, high, by, alarm=not low <= perplexity <= high)


def _by_law(book: "LawBook", facts: Mapping[str, Any], shares: Mapping[Scheme, float]) -> tuple[float, float] | None:
    """Ends of the law's band in nats beside the original's loss; None where no law says anything of a scheme.

    Damages of the parts of a model add up, each by its share of the weights.
    """
    from kbit.core.errors import NumericsError
    from kbit.study.predict import expected_band

    try:
        bands = {scheme: expected_band(book, facts, scheme.text, 1.0) for scheme in shares}
    except NumericsError:
        return None
    low, high = (sum(share * math.log(bands[scheme][end]) for scheme, share in shares.items()) for end in (0, 1))
    return low, high


def _shares(modules: "Mapping[str, Module]") -> dict[Scheme, float]:
    """Scheme → part of the encoded weights."""
    found: Counter[Scheme] = Counter()
    for module in modules.values():
        found[module.scheme] += math.prod(module.shape)
    return {scheme: weights / found.total() for scheme, weights in found.items()}


def describe(band: Band) -> str:
    """One line for people."""
    expected = f"{band.low:.4g} to {band.high:.4g} by {band.by}"
    if band.alarm:
        return f"LIKELY A BROKEN ENCODING: perplexity {band.perplexity:.4g} on the tokens of the check, expected {expected}"
    return f"perplexity {band.perplexity:.4g} on the tokens of the check, as expected: {expected}"


def _series(book: "LawBook", name: str) -> tuple[str, str, int] | None:
    """What rows of the law call the family that a folder's name begins with, with a text and context of it; None where it knows none."""
    known = [series.rsplit("/", 2) for series in book.series]
    own = [parts for parts in known if _plain(parts[0]) and _plain(name).startswith(_plain(parts[0]))]
    if not own:
        return None
    family, dataset, context = max(own, key=lambda parts: len(parts[0]))
    return family, dataset, int(context)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
