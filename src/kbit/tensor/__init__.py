"""What a k-bit tensor is: blocks that share a scale, scales in their stored form, packed planes, and the value that holds them."""

from kbit.tensor.bfloat16 import BFloat16
from kbit.tensor.blocks import BlockLayout
from kbit.tensor.quantized import QuantizedTensor, part_shapes

__all__ = ["BFloat16", "BlockLayout", "QuantizedTensor", "part_shapes"]
