"""The learning rate of a step: linear warm-up, constant, then down to a share of it along a half cosine or a line."""

import math

from kbit.train.recipe import TrainingOptions

__all__ = ["learning_rate"]


def learning_rate(options: TrainingOptions, step: int) -> float:
    """Learning rate of step 0 … steps − 1; the last one comes within a step of `final_share`."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    begin = max(options.warmup_steps, round(options.constant_share * options.steps))
    if step < begin:
        return options.learning_rate
    done = (step - begin) / max(1, options.steps - begin)
    left = (1 + math.cos(math.pi * done)) / 2 if options.decay == "cosine" else 1 - done
    return options.learning_rate * (options.final_share + (1 - options.final_share) * left)
