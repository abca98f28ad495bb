"""kbit encodes the parameters of a transformer into k bits, runs it in k bits, and measures what that costs.

    import kbit
    model = kbit.encode(model, "nf4:g64")           # any torch module, in place
    kbit.encode("path/of/model", "nf4:g64", output="path/of/packed")
    model = kbit.load("path/of/packed")
    kbit.decode("path/of/packed", "path/of/ordinary")

Names are loaded when they are first used (PEP 562): `import kbit` needs neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbit.calibrate.text import CalibrationText, CalibrationWindows
    from kbit.core.plan import Plan
    from kbit.core.scheme import Scheme
    from kbit.hf.config import KbitConfig
    from kbit.model.decode import decode
    from kbit.model.encode import encode
    from kbit.model.load import load
    from kbit.model.save import save
    from kbit.study.advise import advise
    from kbit.tensor.quantized import QuantizedTensor

__all__ = [
    "CalibrationText",
    "CalibrationWindows",
    "KbitConfig",
    "Plan",
    "QuantizedTensor",
    "Scheme",
    "__version__",
    "advise",
    "decode",
    "encode",
    "load",
    "save",
]

_HOMES = {
    "CalibrationText": "kbit.calibrate",
    "CalibrationWindows": "kbit.calibrate",
    "Plan": "kbit.core.plan",
    "Scheme": "kbit.core.scheme",
    "QuantizedTensor": "kbit.tensor.quantized",
    "KbitConfig": "kbit.hf",
    "advise": "kbit.study.advise",
    "decode": "kbit.model",
    "encode": "kbit.model",
    "load": "kbit.model",
    "save": "kbit.model",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from kbit.core.installation import package_version

        return package_version()
    if name not in _HOMES:
        raise AttributeError(f"module 'kbit' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from kbit.core.errors import MissingExtraError
        from kbit.core.installation import EXTRA_OF

        missing = error.name or ""
        if missing not in EXTRA_OF:
            raise
        raise MissingExtraError(missing, EXTRA_OF[missing]) from error


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
