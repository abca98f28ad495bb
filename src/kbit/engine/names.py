"""From the names of an architecture to those of a checkpoint: each weight found, its shape checked, before any work."""

from kbit.core.errors import ModelError
from kbit.engine.architectures.blocks import Matrix, NormLayer, Table
from kbit.engine.ops import Norm, Part, WeightSlice
from kbit.engine.weights import ModelWeights, WeightInfo

__all__ = ["Names", "spelled"]


def spelled(name: str, spellings: tuple[tuple[str, str], ...]) -> list[str]:
    """A name in all its spellings (`Architecture.spellings`), the usual one first."""
    names = [name]
    for usual, other in spellings:
        names += [one.replace(usual, other, 1) for one in names if usual in one]
    return names


class Names:
    """Resolves names over a model's weights.

    Args:
        weights: of the model.
        spellings: see `Architecture.spellings`.
    """

    def __init__(self, weights: ModelWeights, spellings: tuple[tuple[str, str], ...]) -> None:
        self.weights, self.spellings = weights, spellings

    def find(self, name: str) -> WeightInfo | None:
        """What is stored under a name in any of its spellings; the usual one first."""
        return next((info for spelling in spelled(name, self.spellings) if (info := self.weights.find(spelling)) is not None), None)

    def require(self, name: str, shape: tuple[int, ...]) -> str:
        """The stored spelling of a name, whose weight must be there in this shape.

        Raises:
            ModelError: no such weight, or one of another shape.
        """
        info = self.find(name)
        return self.weights.info(name if info is None else info.name, shape).name

    def matrix(self, matrix: Matrix) -> WeightSlice:
        """The rows that are used of a matrix.

        Raises:
            ModelError: as `require`.
        """
        info = self.find(matrix.name)
        transposed = matrix.conv1d and info is not None and info.scheme is None
        shape = (matrix.cols, matrix.rows) if transposed else (matrix.rows, matrix.cols)
        return WeightSlice(self.require(matrix.name, shape), matrix.begin, matrix.end, transposed)

    def part(self, matrix: Matrix, at: int = 0) -> Part:
        """A matrix and its bias, whose outputs go to columns `at` and on.

        Raises:
            ModelError: as `require`.
        """
        assert not matrix.bias or matrix.outputs == matrix.rows, "a bias belongs to all rows of a matrix"
        weight = self.matrix(matrix)
        return Part(weight, self.require(f"{matrix.name}.bias", (matrix.rows,)) if matrix.bias else None, at)

    def table(self, table: Table) -> WeightSlice:
        """An embedding.

        Raises:
            ModelError: as `require`.
        """
        return WeightSlice(self.require(table.name, (table.entries, table.width)))

    def norm(self, norm: NormLayer | None) -> Norm | None:
        """A norm with its vectors.

        Raises:
            ModelError: as `require`.
        """
        if norm is None:
            return None
        weight = self.require(f"{norm.name}.weight", (norm.size,)) if norm.weight else None
        bias = self.require(f"{norm.name}.bias", (norm.size,)) if norm.bias else None
        return Norm(norm.kind, weight, bias, norm.eps, norm.plus_one)

    def head(self, matrix: Matrix, embedding: Table, *, tied: bool) -> Part:
        """The output matrix, for which the token embedding stands in where both are tied and only that one is stored.

        Raises:
            ModelError: as `require`.
        """
        if not tied or self.find(matrix.name) is not None:
            return self.part(matrix)
        if (embedding.entries, embedding.width) != (matrix.rows, matrix.cols):
            raise ModelError(
                f"{matrix.name!r} is tied to {embedding.name!r}: expected both to be {matrix.rows}×{matrix.cols}, "
                f"got {embedding.entries}×{embedding.width}"
            )
        bias = self.require(f"{matrix.name}.bias", (matrix.rows,)) if matrix.bias else None
        return Part(self.table(embedding), bias)
