"""Damage by the error of the data type on normal weights, so that a type nobody has run yet can be predicted
(efficiency as a function of the format's Gaussian error: arXiv 2506.01863).

    loss = loss of the original + k[method] · ρ(scheme)^s · N^−α

ρ is `kbit.study.laws.gaussian_error.scheme_error`. What a family leaves the rule by belongs to its method.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from kbit.study.laws.damage import Feature, Prior
from kbit.study.laws.form import DamageForm, PowerProduct
from kbit.study.laws.gaussian_error import row_error
from kbit.study.rows import Row

__all__ = ["GaussianLaw"]

_PRIORS = {
    "level": Prior(1.0, 4.0, structural=True),
    "size": Prior(0.25, 0.3, structural=True),
    "error": Prior(1.0, 0.5, structural=True),
    "own error": Prior(0.0, 0.2),
    "family": Prior(0.0, 0.5),
}


def _features(row: Row) -> Sequence[Feature] | None:
    error = row_error(row)
    if error is None:
        return None
    return (
        Feature("level", f"log k[{row.method}]", 1.0),
        Feature("size", "α of damage", -float(np.log(row.params / 1e9))),
        Feature("error", "s", float(np.log(error))),
        Feature("own error", f"s[{row.method}]", float(np.log(error))),
        Feature("family", f"c[{row.method}, {row.family}]", 1.0),
    )


class GaussianLaw(PowerProduct):
    """See the module."""

    __slots__ = ()
    form: ClassVar[str] = "gaussian"
    formula: ClassVar[str] = "loss = loss₁₆(N) + k·ρ^s·N^−α"
    description: ClassVar[DamageForm] = DamageForm("gaussian", formula, _features, _PRIORS)
