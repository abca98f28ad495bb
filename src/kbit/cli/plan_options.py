"""What the options of `kbit quantize` mean that say what to encode and by what: plans, sizes, calibration texts."""

import re
from typing import TYPE_CHECKING

from kbit.core.errors import SchemeError
from kbit.core.plan import Plan
from kbit.core.scheme import Scheme

if TYPE_CHECKING:
    from kbit.calibrate import CalibrationText, GeneratedText

__all__ = ["byte_count", "calibration_of", "make_plan", "rules_of"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def calibration_of(files: list[str], tokens: int, seed: int) -> "CalibrationText | GeneratedText | None":
    """What ``--calibration`` says: files, or ``self``.

    Raises:
        SchemeError: both.
    """
    from kbit.calibrate import CalibrationText, GeneratedText

    if "self" not in files:
        return CalibrationText(tuple(files), tokens=tokens, seed=seed) if files else None
    if len(files) > 1:
        raise SchemeError("expected --calibration self alone, got files beside it (a file of that name is ./self)")
    return GeneratedText(tokens=tokens, seed=seed)


def make_plan(scheme: str, embedding: str, head: str, rules: list[str], skip: list[str]) -> Plan:
    """The plan that the options describe.

    Raises:
        SchemeError: a scheme, rule or pattern that cannot be understood.
    """
    return Plan(Scheme.parse(scheme), Scheme.parse(embedding), Scheme.parse(head), rules_of(rules), tuple(skip))


def rules_of(rules: list[str]) -> tuple[tuple[str, Scheme], ...]:
    """(pattern, scheme) of each ``REGEX=SCHEME``.

    Raises:
        SchemeError: a rule that is none.
    """
    pairs = []
    for rule in rules:
        pattern, equals, text = rule.rpartition("=")
        if not equals or not pattern:
            raise SchemeError(f"expected --rule REGEX=SCHEME, such as 'layers[.]0[.]=int8:g64', got {rule!r}")
        pairs.append((pattern, Scheme.parse(text)))
    return tuple(pairs)


def byte_count(text: str) -> int:
    """A size such as ``5GB``, ``500MB`` or ``2GiB`` in bytes.

    Raises:
        SchemeError: it is not a size above 0.
    """
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    count = int(float(match[1]) * unit) if match and unit else 0
    if count < 1:
        raise SchemeError(f"expected a size such as 5GB, 500MB or 2GiB, got {text!r}")
    return count
