"""Where the 2^k levels of a data type lie, and nothing else.

One file a data type: `linear`, `floating`, `log`, `normal`, `dynamic` follow from the scheme alone; `quantile`, `kmeans` and `nested`
are fitted to a `sample` of the tensor. `lookup` goes from a scheme to its levels; `ramp` is the float32 arithmetic that two published
maps start from.
"""

from kbit.grids.lookup import GRID_TABLE, FittedGrid, FixedGrid, is_data_dependent, levels_for

__all__ = ["GRID_TABLE", "FittedGrid", "FixedGrid", "is_data_dependent", "levels_for"]
