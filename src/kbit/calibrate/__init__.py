"""What a model's layers get to see: a calibration text run through it, layer by layer, as it is encoded.

    text        files → windows of tokens, drawn by a seed (with chat and tokens)
    generated   the same, written by the model itself
    moments     XᵀX of a layer's inputs, or its diagonal alone
    walk        a transformers model as embeddings, a list of layers, and a rest; one layer at a time
    observe     inputs of the linear layers and experts inside a module
    awq, folds  factors on inputs, and what takes them
    sequential  encodes the layers in order, each by its inputs from those already encoded

Names are loaded on first use: the windows need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbit.calibrate.generated import GeneratedText
    from kbit.calibrate.sequential import CalibrationReport, encode_sequentially
    from kbit.calibrate.text import CalibrationText, CalibrationWindows

__all__ = ["CALIBRATION_ATTRIBUTE", "CalibrationReport", "CalibrationText", "CalibrationWindows", "GeneratedText", "encode_sequentially"]

#: attribute of an encoded module that remembers (digest of the tokens, seed)
CALIBRATION_ATTRIBUTE = "kbit_calibration"

_WHERE = {
    "CalibrationReport": "sequential",
    "encode_sequentially": "sequential",
    "CalibrationText": "text",
    "CalibrationWindows": "text",
    "GeneratedText": "generated",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
