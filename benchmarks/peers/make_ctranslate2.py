"""CTranslate2 folder of a checkpoint in int8, by its converter.

make_ctranslate2.py CHECKPOINT DESTINATION
"""

import sys

from ctranslate2.converters import TransformersConverter

if __name__ == "__main__":
    TransformersConverter(sys.argv[1]).convert(sys.argv[2], quantization="int8")
