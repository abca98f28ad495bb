"""Losses of trellis codes with GPTQ, derived from those of scalar codes of the same bits.

To encode a weight so takes 10 times as long as by any other code, and what comes of it is known beforehand: both errors are shaped by the
same Hessian, and stand in a ratio that hardly differs from weight to weight. So the first weight that a line is asked for is encoded by
it, and from then on

    loss(trellis) = loss(partner) · error(trellis) / error(partner)        errors of the first weight, under its inputs

The ratios of the losses themselves scatter by 9 to 13 % around their median, and sums over all weights of a model come within 10 % of the
measured ones (`benchmarks/derived.py`).
"""

from collections.abc import Iterable, Mapping, Sequence

from kbit.allocate.sensitivity import Loss
from kbit.core.scheme import Scheme

__all__ = ["Derived", "ordered", "partner"]

#: a group of a whole row, beyond all that have a number
_WHOLE_ROW = 2048


def partner(scheme: Scheme, schemes: Iterable[Scheme]) -> Scheme | None:
    """Of the schemes of a weight, the one whose loss says that of `scheme`; None where it has to be found by itself.

    That is the scalar one with the nearest group size among those with the same bits that look at inputs alike.
    """
    if scheme.grid != "trellis" or "gptq" not in scheme.methods:
        return None
    alike = [
        one
        for one in schemes
        if not one.is_none and one.grid != "trellis" and (one.dims, one.bits, one.methods) == (1, scheme.bits, scheme.methods)
    ]
    return min(alike, key=lambda one: (abs(_group(one) - _group(scheme)), one.text), default=None)


def _group(scheme: Scheme) -> int:
    return _WHOLE_ROW if scheme.group_size == -1 else scheme.group_size


def ordered(schemes: Sequence[Scheme]) -> list[Scheme]:
    """Schemes in their order, partners before those that are derived from them."""
    return sorted(schemes, key=lambda scheme: partner(scheme, schemes) is not None)


class Derived:
    """Ratios of errors, from the first weight that has both."""

    def __init__(self) -> None:
        self._ratios: dict[tuple[Scheme, Scheme], float] = {}

    def learn(self, scheme: Scheme, other: Scheme, losses: Mapping[Scheme, Loss]) -> None:
        """Take the ratio from a weight that was encoded by both; the first one with an error counts."""
        if losses[other].error > 0:
            self._ratios.setdefault((scheme, other), losses[scheme].error / losses[other].error)

    def loss(self, scheme: Scheme, other: Scheme, losses: Mapping[Scheme, Loss]) -> Loss | None:
        """Loss of `scheme` by that of `other`; None where no weight was encoded by both yet."""
        ratio = self._ratios.get((scheme, other))
        if ratio is None:
            return None
        return Loss(losses[other].kl * ratio, losses[other].error * ratio)
