"""Packed folder of a checkpoint, embedding and head by the same scheme as the layers.

make_kbit.py CHECKPOINT DESTINATION SCHEME
"""

import sys

from kbit.core.plan import Plan
from kbit.core.scheme import Scheme
from kbit.model import quantize_folder

if __name__ == "__main__":
    scheme = Scheme.parse(sys.argv[3])
    quantize_folder(sys.argv[1], sys.argv[2], Plan(scheme, embedding=scheme, head=scheme), progress=False)
