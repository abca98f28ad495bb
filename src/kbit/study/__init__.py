"""A study of what really runs, the laws fitted to its rows, and the advice that follows from them.

    rows      what was measured, one row a cell: read and checked
    laws      loss against size and bits, a form a file; latency against bytes and work
    fitting   all forms on the same rows, told apart by models they have not seen; predict: with intervals
    advise    which model at which scheme for a memory, a speed and a loss
    report    one page with the curves, the tables behind them and how to read them

Importing this package needs neither torch nor scipy; fitting needs scipy (the ``study`` extra), predicting and advising do not.
"""
