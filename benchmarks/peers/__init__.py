"""Engines side by side: each runs a model in a process (and an environment) of its own, which speaks JSON lines with the benchmark.

    setup                  makes the environments of the peers from PyPI, versions pinned in requirements/
    catalogue.py           engines, their types, and the commands that make and run a model
    files.py               a random checkpoint and each engine's version of it, made once
    client.py              the benchmark's side of a worker
    worker.py              a worker's side
    make_ENGINE.py         checkpoint → the engine's file
    run_ENGINE.py          the engine's file → tokens
    rounds.py              rounds over all workers, in turn
    others.py              a shared machine: knowing when others use it
    results.py             medians, ratios to the peers, the table
    plot.py                tokens a second against bits per weight

`make_*`, `run_*` and `worker.py` run in the environments of the peers: they import nothing of kbit, except kbit's own.
"""
