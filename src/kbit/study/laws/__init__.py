"""Forms of laws, one a file. A form is fitted to rows and answers with the log perplexity of others.

observations   rows as arrays; what each lost against its own original
curve          how originals improve with size: under all forms but one
damage         what encoding adds, as a product of powers; robust, with priors
power          a power law a precision: the plain form
kumar          encoding as fewer parameters      ouyang     a power of size, bits and training tokens
gaussian       by the data type's error on normal weights, so also for types nobody has run
bit_level      curves in log total bits, interpolated
latency        time of a token by bytes, work and the machine's roofs
"""

from collections.abc import Mapping

from kbit.study.laws.bit_level import BitLevelLaw
from kbit.study.laws.form import Law
from kbit.study.laws.gaussian import GaussianLaw
from kbit.study.laws.kumar import KumarLaw
from kbit.study.laws.ouyang import OuyangLaw
from kbit.study.laws.power import PowerLaw

__all__ = ["FORMS", "Law"]

#: all forms of loss; where two err alike, the first is taken
FORMS: Mapping[str, type[Law]] = {law.form: law for law in (PowerLaw, OuyangLaw, GaussianLaw, KumarLaw, BitLevelLaw)}
