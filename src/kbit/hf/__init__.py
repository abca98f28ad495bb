"""transformers plug-in: importing this package registers ``quant_method: "kbit"``."""

from kbit.hf.config import KbitConfig
from kbit.hf.quantizer import KbitHfQuantizer, attach

__all__ = ["KbitConfig", "KbitHfQuantizer", "attach"]
