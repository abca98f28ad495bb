"""Every model under every scheme: bytes by count, loss by a law with its interval, speed by the machine's roofs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.engine.cache import CacheFormat
from kbit.native import int8_roof, memory_roof
from kbit.study.advise.footprint import Footprint
from kbit.study.advise.measured import anchored
from kbit.study.advise.models import Choice, same_family
from kbit.study.book import LawBook
from kbit.study.laws.latency import LatencyLaw, Load
from kbit.study.predict import predict_rows
from kbit.study.schemes import row_bits, scheme_row

__all__ = ["SCHEMES", "Candidate", "Roofs", "make_candidates", "measure_roofs"]

#: what is tried unless told: normal levels where they pay, linear above; importance and compensation throughout but at 8 bits
SCHEMES = (
    "16",
    "int8:g128",
    *(f"int{bits}:g{group}+imp+gptq" for bits in (6, 5) for group in (128, 64)),
    *(f"nf{bits}:g{group}+imp+gptq" for bits in (4, 3, 2) for group in (128, 64, 32)),
)


@dataclass(frozen=True, slots=True)
class Roofs:
    """What the machine does at most: bytes read and int8 multiply-adds a second, both in 10⁹."""

    memory_gb_per_s: float
    int8_gmac_per_s: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model under a scheme.

    Attributes:
        model, family: names.
        scheme: text; its bits.
        bits: of a code.
        params: of the model.
        footprint: bytes.
        loss, loss_low, loss_high: expected nats a token on the law's text, and the 90 % interval.
        tokens_per_s: of decoding with a full context.
        note: what makes the interval wide.
    """

    model: str
    family: str
    scheme: str
    bits: int
    params: int
    footprint: Footprint
    loss: float
    loss_low: float
    loss_high: float
    tokens_per_s: float
    note: str = ""

    @property
    def bytes(self) -> int:
        """Memory that running takes."""
        return self.footprint.total_bytes

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return {
            "model": self.model,
            "scheme": self.scheme,
            "bpw": self.footprint.bpw,
            "loss": self.loss,
            "loss_low": self.loss_low,
            "loss_high": self.loss_high,
            "perplexity": math.exp(min(self.loss, 300.0)),
            "bytes": self.bytes,
            "weight_bytes": self.footprint.weight_bytes,
            "kv_bytes": self.footprint.kv_bytes,
            "workspace_bytes": self.bytes - self.footprint.weight_bytes - self.footprint.kv_bytes,
            "tokens_per_s": self.tokens_per_s,
            "note": self.note,
        }


def measure_roofs(threads: int = 0, probes: int = 3) -> Roofs:
    """Roofs of this machine now: medians of some probes."""
    memory, compute = zip(*((memory_roof(threads), int8_roof(threads)) for _ in range(probes)), strict=True)
    return Roofs(median(memory), median(compute))


def make_candidates(
    choices: Sequence[Choice],
    schemes: Sequence[str],
    book: LawBook,
    latency: LatencyLaw,
    roofs: Roofs,
    *,
    context: int,
    cache: CacheFormat = "fp16",
    embedding: str = "16",
    measured: Mapping[str, float] | None = None,
) -> list[Candidate]:
    """All models under all schemes; a model that knows fewer positions than `context` is left out.

    Losses of originals in `measured`, by the model's name, take the place of what the law says of them.

    Raises:
        SchemeError: a scheme that cannot be read. NumericsError: a law that says nothing of one.
    """
    texts = [Scheme.parse(text) for text in dict.fromkeys(schemes)]
    out: list[Candidate] = []
    for choice in choices:
        if choice.shape.context and context > choice.shape.context:
            continue
        family, dataset, window = _series_of(book, choice.family)
        facts = {
            "family": family,
            "params": choice.shape.params,
            "dataset": dataset,
            "context": window,
            "hidden_size": choice.shape.hidden_size,
        }
        prints = [choice.shape.footprint(_plan(scheme, embedding), context, cache) for scheme in texts]
        rows = [scheme_row({**facts, "bpw": one.bpw}, scheme, book.methods) for scheme, one in zip(texts, prints, strict=True)]
        expected = predict_rows(book, [*rows, scheme_row(facts, "16")])
        if measured is not None:
            expected = [anchored(said, expected[-1], measured[choice.name]) for said in expected]
        for scheme, one, said in zip(texts, prints, expected[:-1], strict=True):
            load = Load(
                one.read_bytes + one.kv_bytes, choice.shape.multiply_adds, choice.shape.layers, roofs.memory_gb_per_s, roofs.int8_gmac_per_s
            )
            out.append(
                Candidate(
                    model=choice.name,
                    family=choice.family,
                    scheme=scheme.text,
                    bits=row_bits(scheme),
                    params=choice.shape.params,
                    footprint=one,
                    loss=math.log(said.perplexity),
                    loss_low=math.log(said.low),
                    loss_high=math.log(said.high),
                    tokens_per_s=1 / latency.seconds(load),
                    note=said.note,
                )
            )
    return out


def _plan(scheme: Scheme, embedding: str) -> Plan:
    if scheme.is_none:
        return Plan(scheme)
    table = Scheme.parse(embedding)
    return Plan(scheme, embedding=table, head=table)


def _series_of(book: LawBook, family: str) -> tuple[str, str, int]:
    """Family, dataset and context of a series of the book: the family's own, else its words with the first series' text."""
    series = [tuple(one.rsplit("/", 2)) for one in book.series]
    own = [one for one in series if same_family(one[0], family)]
    if own:
        return own[0][0], own[0][1], int(own[0][2])
    return family, series[0][1], int(series[0][2])
