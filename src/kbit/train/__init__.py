"""Training language models from scratch: a recipe, several sizes, the same data for each.

recipe      `TrainingRecipe` from TOML     data        text files → tokens, once → windows in an order by the seed
schedule    learning rate by step          checkpoint  everything that the next step depends on, atomic
loop        `train_recipe`                 tracking    TensorBoard and W&B
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbit.train.loop import train_recipe
    from kbit.train.recipe import TrainingRecipe
    from kbit.train.result import TrainingResult

__all__ = ["TrainingRecipe", "TrainingResult", "train_recipe"]

_WHERE = {"loop": ("train_recipe",), "recipe": ("TrainingRecipe",), "result": ("TrainingResult",)}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
