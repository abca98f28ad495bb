"""The plain form: each precision adds its own power law.

    loss(N) = loss of the original + exp(b[precision] + c[precision, family]) · N^−β[precision]

It speaks of the precisions that it has seen (method, data type, bits and group size) and of no others.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from kbit.study.laws.damage import Feature, Prior
from kbit.study.laws.form import DamageForm, PowerProduct
from kbit.study.rows import Row

__all__ = ["PowerLaw"]

_PRIORS = {
    "level": Prior(-2.0, 3.0, structural=True),
    "size": Prior(0.25, 0.5, structural=True),
    "own size": Prior(0.0, 0.15),
    "family": Prior(0.0, 0.3),
}


def _features(row: Row) -> Sequence[Feature]:
    size = -float(np.log(row.params / 1e9))
    return (
        Feature("level", f"b[{row.precision}]", 1.0),
        Feature("size", "β", size),
        Feature("own size", f"β[{row.precision}]", size),
        Feature("family", f"c[{row.precision}, {row.family}]", 1.0),
    )


class PowerLaw(PowerProduct):
    """See the module."""

    __slots__ = ()
    form: ClassVar[str] = "power"
    formula: ClassVar[str] = "loss = loss₁₆(N) + exp(b + c)·N^−β"
    description: ClassVar[DamageForm] = DamageForm("power", formula, _features, _PRIORS)
