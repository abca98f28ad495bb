"""What training a size came to: its ``training.json``."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["TrainingResult"]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """One trained size; `to_json` is its ``training.json``.

    Attributes:
        size, params, tokens: which, how large, trained on how many tokens.
        train_loss: mean over the last steps, nats a token.
        heldout_loss: of the stored weights on the held-out text, nats a token; windows of the training context.
        heldout_tokens: tokens that it is the mean of.
        minutes: time of all its runs, pauses of the process included.
        options: how it was trained.
        history: [tokens, mean training loss].
        recipe_sha256: digest of architecture, options, text and tokenizer.
        weights_sha256: digest of the weight file.
    """

    size: str
    params: int
    tokens: int
    train_loss: float
    heldout_loss: float
    heldout_tokens: int
    minutes: float
    options: dict[str, Any]
    history: list[list[float]]
    recipe_sha256: str
    weights_sha256: str

    def to_json(self) -> dict[str, Any]:
        """JSON object."""
        return asdict(self)
