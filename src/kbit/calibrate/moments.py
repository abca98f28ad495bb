"""Second moments of a layer's inputs, gathered batch by batch: the whole XᵀX, or its diagonal alone, in float32."""

import numpy as np
import torch
from numpy.typing import NDArray

from kbit.calibrate.gram import add_gram, mirror
from kbit.tensor.rotation import rotate_moments, rotate_rows

__all__ = ["InputMoments"]


class InputMoments:
    """Sum over input rows x of xᵀx.

    Args:
        cols: width of the inputs.
        full: gather the whole matrix; False gathers the diagonal.
        storage: zeros of float32 to gather in, [cols, cols] or [cols]; None makes them.
        rotated: the diagonal is that of rotated inputs (`kbit.tensor.rotation`). The whole matrix is of inputs as they come.

    Attributes:
        rows: input rows seen.
    """

    def __init__(self, cols: int, *, full: bool, rotated: bool = False, storage: torch.Tensor | None = None) -> None:
        self.rows, self._rotated = 0, rotated
        self._total = torch.zeros(cols, dtype=torch.float32)
        self._sum = torch.zeros((cols, cols) if full else cols, dtype=torch.float32) if storage is None else storage
        self._averaged = False

    def add(self, inputs: torch.Tensor) -> None:
        """Take the rows of `inputs` [..., cols] in, as a layer multiplies them: under autocast rounded to its dtype."""
        assert not self._averaged, "the mean was taken already"
        rows = inputs.detach().reshape(-1, inputs.shape[-1])
        rows = rows.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else rows.float()
        with torch.autocast("cpu", enabled=False):
            self._add(rows)

    def _add(self, rows: torch.Tensor) -> None:
        self.rows += len(rows)
        self._total += rows.sum(0, dtype=torch.float32)
        if self.full:
            add_gram(self._sum, rows)
        else:
            x = rows.float()
            self._sum += (torch.from_numpy(rotate_rows(x.numpy())) if self._rotated else x).square().sum(0)

    @property
    def full(self) -> bool:
        """True where all products are gathered, not the squares alone."""
        return self._sum.ndim == 2

    @property
    def is_zero(self) -> bool:
        """True where nothing but zeros was seen."""
        return not bool(self._sum.any())

    @property
    def hessian(self) -> NDArray[np.float32]:
        """Mean of xᵀx, float32 [cols, cols]; zeros where no input was seen."""
        assert self.full, "only the diagonal was gathered"
        return self._mean()

    @property
    def importance(self) -> NDArray[np.float32]:
        """Mean of x², float32 [cols]; ones where no input was seen or all were 0, so that nothing is preferred."""
        mean = np.diagonal(rotate_moments(self._mean()) if self._rotated else self._mean()).copy() if self.full else self._mean()
        return mean if mean.any() else np.ones_like(mean)

    @property
    def mean_square(self) -> NDArray[np.float32]:
        """Mean of x², float32 [cols]; zeros where no input was seen."""
        return np.diagonal(self._mean()).copy() if self.full else self._mean()

    @property
    def mean(self) -> NDArray[np.float32]:
        """Mean input, float32 [cols]; zeros where no input was seen."""
        mean: NDArray[np.float32] = (self._total / max(self.rows, 1)).numpy()
        return mean

    def _mean(self) -> NDArray[np.float32]:
        if not self._averaged:  # in place: of experts there may be more than memory holds twice
            if self.full:
                mirror(self._sum)
            self._sum /= max(self.rows, 1)
            self._averaged = True
        mean: NDArray[np.float32] = self._sum.numpy()
        return mean
