"""Losses of trellis codes in other groups, derived from those in one group size.

A trellis hardly cares how many weights share a scale: its levels are chosen by what came before, and a path makes up for a scale that suits
its neighbours. What little a group size changes it changes alike for every weight, so that lines that differ in nothing else need not all
be encoded. The first weight is, by each of them, and from then on

    loss(other group) = loss(first of these lines) · ratio of the errors of the first weight, under its inputs

`benchmarks/derived.py` says how near that comes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kbit.allocate.sensitivity import Loss
from kbit.core.scheme import Scheme

__all__ = ["Derived", "ordered", "partner"]


def partner(scheme: Scheme, schemes: Sequence[Scheme]) -> Scheme | None:
    """Of the schemes of a weight, the one whose loss says that of `scheme`: the first that differs in its group size alone.

    None where it has to be found by itself: for `scheme` itself, and for types that are no trellis.
    """
    if scheme.grid != "trellis":
        return None
    first = next(one for one in schemes if not one.is_none and replace(one, group_size=scheme.group_size) == scheme)
    return None if first == scheme else first


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
