"""Every error that kbit raises on purpose.

    KbitError
    ├── SchemeError          a scheme, plan or option that cannot be understood   (also ValueError)
    ├── ShapeError           a shape, size or stride that does not fit            (also ValueError)
    ├── DTypeError           a dtype that is not accepted                         (also TypeError)
    ├── NumericsError        NaN, Inf or a value outside the stated range         (also ValueError)
    ├── FormatError          a file that is not what it claims to be
    │   └── LimitError       a file or input beyond a stated limit
    ├── IntegrityError       bytes that do not match their hash
    ├── StorageError         the disk said no                                     (also OSError)
    ├── ResumeMismatch       a journal of another model, scheme, config or version
    ├── ModelError           a model or architecture that cannot be handled
    ├── QualityError         an encoded model that lost more than its bits explain
    └── MissingExtraError    an optional dependency that is not installed         (also ImportError)

The message says what was expected and what came; callers catch what they mean.
"""

__all__ = [
    "DTypeError",
    "FormatError",
    "IntegrityError",
    "KbitError",
    "LimitError",
    "MissingExtraError",
    "ModelError",
    "NumericsError",
    "QualityError",
    "ResumeMismatch",
    "SchemeError",
    "ShapeError",
    "StorageError",
]


class KbitError(Exception):
    """Base of all errors raised by kbit."""


class SchemeError(KbitError, ValueError):
    """A scheme, plan or option that cannot be understood."""


class ShapeError(KbitError, ValueError):
    """A shape, size or stride that does not fit."""


class DTypeError(KbitError, TypeError):
    """A dtype that is not accepted."""


class NumericsError(KbitError, ValueError):
    """NaN, Inf or a value outside the stated range."""


class FormatError(KbitError):
    """A file that is not what it claims to be."""


class LimitError(FormatError):
    """A file or input beyond a stated limit."""


class IntegrityError(KbitError):
    """Bytes that do not match their hash."""


class StorageError(KbitError, OSError):
    """The disk said no."""


class ResumeMismatch(KbitError):  # noqa: N818 (named for what it is)
    """A journal written for another model, scheme, configuration or version."""


class ModelError(KbitError):
    """A model or architecture that cannot be handled."""


class QualityError(KbitError):
    """An encoded model that lost more than its bits explain."""


class MissingExtraError(KbitError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is needed here and is not installed: pip install 'kbit[{extra}]'", name=package)
        self.extra = extra

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str | None, str]]:
        # as it was raised, so that it can come back from a worker process
        return type(self), (self.name, self.extra)
