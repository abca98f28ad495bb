"""`unfold`: an image as rows of pixels, one for each patch."""

import numpy as np
from numpy.typing import NDArray

from kbit.core.errors import ShapeError

__all__ = ["unfold"]


def unfold(image: NDArray[np.float32], patch: int) -> NDArray[np.float32]:
    """Patches of an image, left to right and top to bottom, behind a row of zeros where the model puts its class token.

    Args:
        image: [channels, height, width], already scaled and shifted as the model was trained with.
        patch: height and width of a patch; divides the image's.

    Returns:
        [1 + patches, channels · patch · patch], a row's numbers in the order that a convolution's weight has.

    Raises:
        ShapeError: not three dimensions, or sizes that patches do not fill.
    """
    if image.ndim != 3 or patch < 1 or image.shape[1] % patch or image.shape[2] % patch:
        raise ShapeError(f"expected an image [channels, height, width] of whole patches of {patch}, got {list(image.shape)}")
    channels, height, width = image.shape
    tiles = image.reshape(channels, height // patch, patch, width // patch, patch).transpose(1, 3, 0, 2, 4)
    rows = tiles.reshape(-1, channels * patch * patch)
    return np.concatenate([np.zeros_like(rows[:1]), rows]).astype(np.float32)
