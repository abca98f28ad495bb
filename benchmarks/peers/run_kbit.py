"""kbit's engine, on a packed folder."""

import numpy as np
import worker

from kbit import native
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed

CONTEXT = 1024


def load(path: str, threads: int) -> tuple[worker.Generate, str]:
    """The engine at its defaults, with a cache as long as that of the peers."""
    engine = Engine.load(path, threads=threads, cache_positions=CONTEXT)

    def generate(prompt: list[int], count: int, report: worker.Report) -> None:
        sequence = engine.sequence()
        tokens = prompt
        for _ in range(count + 1):
            logits = engine.step([Feed(sequence, tokens)])
            tokens = [int(np.argmax(logits[0]))]
            report(tokens[0])
        engine.free(sequence)

    return generate, f"kernels for {native.isa()}"


if __name__ == "__main__":
    worker.serve(load)
