"""torch modules over packed weights, and the exchange of ordinary layers for them."""

from kbit.nn.conv import KbitConv1D, KbitConv2d
from kbit.nn.embedding import KbitEmbedding
from kbit.nn.experts import KbitExperts, KbitStack
from kbit.nn.linear import KbitLinear
from kbit.nn.packed import PackedModule, PackedParameter, share_packed
from kbit.nn.swap import SwapReport, packed_modules, set_mode, swap, swap_targets, unswap
from kbit.nn.targets import Kept, Target, find_targets

__all__ = [
    "KbitConv1D",
    "KbitConv2d",
    "KbitEmbedding",
    "KbitExperts",
    "KbitLinear",
    "KbitStack",
    "Kept",
    "PackedModule",
    "PackedParameter",
    "SwapReport",
    "Target",
    "find_targets",
    "packed_modules",
    "set_mode",
    "share_packed",
    "swap",
    "swap_targets",
    "unswap",
]
