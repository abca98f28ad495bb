"""Degradation as a power of size, bits and training tokens (Ouyang et al. 2024, arXiv 2411.17691):

    loss(N, P, D) = loss of the original + k[method] · D^β / (N^α · P^γ[method])

P is the bits a weight that are stored. D is the column ``trained_tokens``, in billions; a family without it has it in its constant. What
a family leaves the rule by belongs to its method.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from kbit.study.laws.damage import Feature, Prior
from kbit.study.laws.form import DamageForm, PowerProduct
from kbit.study.rows import Row

__all__ = ["OuyangLaw"]

_PRIORS = {
    "level": Prior(2.0, 4.0, structural=True),
    "size": Prior(0.23, 0.3, structural=True),
    "bits": Prior(5.5, 2.0, structural=True),
    "own bits": Prior(0.0, 1.0),
    "tokens": Prior(0.53, 0.3),
    "family": Prior(0.0, 0.5),
}


def _features(row: Row) -> Sequence[Feature]:
    method = f"{row.method} {row.extra['grid']}" if "grid" in row.extra else row.method
    bits = -float(np.log(row.bpw))
    tokens = row.number("trained_tokens")
    return (
        Feature("level", f"log k[{method}]", 1.0),
        Feature("size", "α of damage", -float(np.log(row.params / 1e9))),
        Feature("bits", "γ", bits),
        Feature("own bits", f"γ[{method}]", bits),
        *(() if tokens is None else (Feature("tokens", "β", float(np.log(tokens / 1e9))),)),
        Feature("family", f"c[{method}, {row.family}]", 1.0),
    )


class OuyangLaw(PowerProduct):
    """See the module."""

    __slots__ = ()
    form: ClassVar[str] = "ouyang"
    formula: ClassVar[str] = "loss = loss₁₆(N) + k·D^β·N^−α·P^−γ"
    description: ClassVar[DamageForm] = DamageForm("ouyang", formula, _features, _PRIORS)
