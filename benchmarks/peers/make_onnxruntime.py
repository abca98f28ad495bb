"""ONNX Runtime GenAI folder of a checkpoint, by its model builder.

    make_onnxruntime.py CHECKPOINT DESTINATION

int4 at the defaults for a processor: symmetric, blocks of 32, int8 activations. The head is computed for the last token of a prompt only,
as in the other engines.
"""

import runpy
import sys

if __name__ == "__main__":
    source, destination = sys.argv[1:]
    options = ["-p", "int4", "-e", "cpu", "-c", f"{destination}.cache", "--extra_options", "prune_lm_head=true"]
    sys.argv = ["builder", "-i", source, "-o", destination, *options]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
