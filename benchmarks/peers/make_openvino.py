"""OpenVINO folder of a checkpoint with weights of four bits, as optimum's command line makes it by default: asymmetric, group size 128.

make_openvino.py CHECKPOINT DESTINATION
"""

import sys
from pathlib import Path

from optimum.commands.optimum_cli import main

if __name__ == "__main__":
    source, destination = sys.argv[1:]
    options = ["--task", "text-generation-with-past", "--weight-format", "int4"]
    sys.argv = [str(Path(sys.argv[0]).name), "export", "openvino", "--model", source, *options, destination]
    main()
