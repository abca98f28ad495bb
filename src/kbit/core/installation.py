"""What is installed: kbit's own version, and the packages that its extras bring."""

from collections.abc import Mapping
from functools import cache
from importlib import metadata

__all__ = ["EXTRAS", "EXTRA_OF", "package_version", "version_of"]

#: extra → the packages that it stands for
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "hf": ("transformers", "accelerate"),
    "train": ("zstandard",),
    "track": ("tensorboard", "wandb"),
    "study": ("matplotlib", "scipy", "lm_eval", "pyarrow"),
    "cluster": ("ray",),
    "gpu": ("triton",),
}
#: package → the extra that brings it
EXTRA_OF: Mapping[str, str] = {package: extra for extra, packages in EXTRAS.items() for package in packages}


@cache
def package_version() -> str:
    """Version of the installed package; ``0+source`` when it runs from a source tree."""
    return version_of("kbit") or "0+source"


def version_of(package: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
