"""Parts beside the packed matrix, y = W_q·x + Σ W_residual·x + S·x + U·(V·x); a scheme's text ends with them, as in
``int3:g64+imp+gptq+outlier0.5+lowrank8``.

    pruneP        P percent of each row's weights are 0, and only the others have codes
    pruneN:M      of every M consecutive weights of a row N have codes
    truncateL     weights are 0 below a threshold: the largest one that costs at most L percent of the output's energy; codes stay for all
    residualK     codes of K bits for what the codes leave, with scales of their own; ``residual2-1``: of 1 bit for what those leave, too
    successiveK   the same, level after level: the first codes are those of the scheme without it, and say as much alone
    outlierP      P percent of the weights, those whose error would cost most, in 16 bits at their places
    outliercolP   P percent of the inputs, those whose errors would cost most, as columns in 16 bits
    lowrankR      what is left of the weight by rank R, in 8 bits; ``lowrank0.25b``: as many ranks as 0.25 bits a weight pay for

How many of each a matrix holds follows from its shape alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from kbit.core.errors import SchemeError
from kbit.core.registry import suggest
from kbit.core.shown import shown

__all__ = ["CASCADES", "MOST_RESIDUAL", "PARTS", "Parts", "checked_parts", "is_part", "read_parts"]

#: in the order in which a text gives them
PARTS = ("prune", "truncate", "residual", "successive", "outlier", "outliercol", "lowrank")
_WORD = re.compile(r"([a-z]+)([0-9].*)")
_NUMBER = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4})?")
_RATIO = re.compile(r"([0-9]{1,3}):([0-9]{1,3})")
#: smallest and largest number of each: percent, or a rank
_RANGES = {
    "prune": (Decimal(1), Decimal(99)),
    "truncate": (Decimal("0.0001"), Decimal(50)),
    "outlier": (Decimal("0.01"), Decimal(20)),
    "outliercol": (Decimal("0.01"), Decimal(50)),
}
_MOST_RANK = 4096
#: words of residual levels
CASCADES = ("residual", "successive")
#: most residual levels beside the first codes
MOST_RESIDUAL = 3
_RESIDUAL = re.compile(rf"[1-8](?:-[1-8]){{0,{MOST_RESIDUAL - 1}}}")


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts as numbers; None for one that is not asked for.

    Attributes:
        prune: percent of a row's weights that are 0.
        keep: (N, M): N of M weights have codes.
        truncate: percent of the output's energy that may be lost.
        residual: bits of each residual level, of either kind.
        successive: whether each level is encoded as if none followed.
        outlier: percent of the weights in 16 bits.
        outliercol: percent of the columns in 16 bits.
        rank: of the low rank.
        rank_bits: bits a weight that the low rank may take.
    """

    prune: Decimal | None = None
    keep: tuple[int, int] | None = None
    truncate: Decimal | None = None
    residual: tuple[int, ...] = ()
    successive: bool = False
    outlier: Decimal | None = None
    outliercol: Decimal | None = None
    rank: int | None = None
    rank_bits: Decimal | None = None

    @property
    def pruned(self) -> bool:
        """Whether only some weights have codes."""
        return self.prune is not None or self.keep is not None

    def kept(self, cols: int) -> int:
        """Weights of a row of `cols` that have codes."""
        if self.keep is not None:
            n, m = self.keep
            return cols // m * n + min(n, cols % m)
        return cols if self.prune is None else max(cols - _share(self.prune, cols), 1)

    def outliers(self, rows: int, cols: int) -> int:
        """Outliers of a matrix."""
        return 0 if self.outlier is None else max(_share(self.outlier, rows * cols), 1)

    def columns(self, cols: int) -> int:
        """Columns in 16 bits."""
        return 0 if self.outliercol is None else max(_share(self.outliercol, cols), 1)

    def ranks(self, rows: int, cols: int) -> int:
        """Rank of the low rank: at least 1 where one is asked for, at most that of the matrix."""
        if self.rank is None and self.rank_bits is None:
            return 0
        one = 8 * (-(-rows // 16) * 16 + cols) + 32  # bits of a rank as stored: U, V and a scale
        wanted = self.rank or 0 if self.rank_bits is None else int(self.rank_bits * rows * cols / one)
        return max(min(wanted, rows, cols), 1)


def _share(percent: Decimal, count: int) -> int:
    """So many percent of `count`, halves upwards."""
    return int(percent * count / 100 + Decimal("0.5"))


def is_part(word: str) -> bool:
    """Whether a word of a scheme's text means to be a part, with or without its number."""
    match = re.match(r"[a-z]+", word)
    return match is not None and match[0] in PARTS


def checked_parts(words: object) -> tuple[str, ...]:
    """Words of parts as a scheme holds them, numbers without needless digits.

    Raises:
        SchemeError: a word that is no part, a number out of its range, two of a kind, or another order than `PARTS`.
    """
    if not isinstance(words, list | tuple):
        raise SchemeError(f"parts are a list such as ['outlier0.5', 'lowrank8'], got {shown(words)}")
    read = [_read(word) for word in words]
    names = [name for name, _ in read]
    for name in names:
        if names.count(name) > 1:
            raise SchemeError(f"part {name!r} is given twice")
    if names != sorted(names, key=PARTS.index):
        raise SchemeError(f"expected parts in the order {', '.join(sorted(names, key=PARTS.index))}, got {', '.join(names)}")
    if "prune" in names and "truncate" in names:
        raise SchemeError("expected 'prune' or 'truncate', got both: one says how many weights are 0, the other what that may cost")
    if set(CASCADES) <= set(names):
        raise SchemeError("expected 'residual' or 'successive', got both: levels are chosen together or one after another")
    return tuple(name + number for name, number in read)


@lru_cache(maxsize=256)
def read_parts(words: Sequence[str]) -> Parts:
    """Parts of words that `checked_parts` returned."""
    values: dict[str, object] = {}
    for word in words:
        name, number = _read(word)
        if name == "prune" and ":" in number:
            n, m = number.split(":")
            values["keep"] = (int(n), int(m))
        elif name == "lowrank" and number.endswith("b"):
            values["rank_bits"] = Decimal(number[:-1])
        elif name in CASCADES:
            values |= {"residual": tuple(int(bits) for bits in number.split("-")), "successive": name == "successive"}
        else:
            values["rank" if name == "lowrank" else name] = int(number) if name == "lowrank" else Decimal(number)
    return Parts(**values)  # type: ignore[arg-type]


def _read(word: object) -> tuple[str, str]:
    """(name, canonical number) of a word."""
    match = _WORD.fullmatch(word) if isinstance(word, str) else None
    if match is None or match[1] not in PARTS:
        name = match[1] if match is not None else str(word)
        raise SchemeError(f"unknown part {shown(word)}: expected a part with its number, such as 'outlier0.5'; {suggest(name, PARTS)}")
    name, text = match.groups()
    if name == "prune" and (ratio := _RATIO.fullmatch(text)):
        return name, _ratio(int(ratio[1]), int(ratio[2]))
    if name == "lowrank":
        return name, _rank(text)
    if name in CASCADES:
        if not _RESIDUAL.fullmatch(text):
            raise SchemeError(
                f"expected {name} with the bits of one to {MOST_RESIDUAL} levels, such as {name}2 or {name}2-1, got {shown(word)}"
            )
        return name, text
    low, high = _RANGES[name]
    if not _NUMBER.fullmatch(text) or not low <= Decimal(text) <= high:
        raise SchemeError(
            f"expected {name} with a number of percent in {low}…{high}, such as {name}{max(low, Decimal(1))}, got {shown(word)}"
        )
    return name, _canonical(text)


def _ratio(n: int, m: int) -> str:
    if not 1 <= n < m <= 128:
        raise SchemeError(f"expected pruneN:M with 1 ≤ N < M ≤ 128, such as prune2:4, got prune{n}:{m}")
    return f"{n}:{m}"


def _rank(text: str) -> str:
    if text.endswith("b") and _NUMBER.fullmatch(text[:-1]) and Decimal("0.001") <= Decimal(text[:-1]) <= 8:
        return _canonical(text[:-1]) + "b"
    if not text.isdecimal() or not text.isascii() or len(text) > 4 or not 1 <= int(text) <= _MOST_RANK:
        raise SchemeError(f"expected lowrank with a rank in 1…{_MOST_RANK} or a budget such as lowrank0.25b, got {shown('lowrank' + text)}")
    return str(int(text))


def _canonical(text: str) -> str:
    number = Decimal(text)
    return str(int(number)) if number == int(number) else str(number.normalize())
