"""Whole models: encode, save, load, decode; in memory or from folder to folder."""

from kbit.model.decode import decode
from kbit.model.encode import encode
from kbit.model.load import load, load_into
from kbit.model.quantize import QuantizeResult, quantize_folder
from kbit.model.save import save

__all__ = ["QuantizeResult", "decode", "encode", "load", "load_into", "quantize_folder", "save"]
