"""A stepper over a model of transformers: each row is computed anew from the whole history, so nothing else can matter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kbit.engine.stepper import Feed


class TorchStepper:
    def __init__(self, model: Any) -> None:
        self.model = model.float().eval()
        self.vocabulary = int(model.config.vocab_size)
        self.context = int(model.config.max_position_embeddings)
        self.live: dict[int, list[int]] = {}
        self._handles = 0
        self._known: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def sequence(self) -> int:
        return self._new([])

    def fork(self, sequence: int, length: int | None = None) -> int:
        return self._new(self.live[sequence][:length])

    def truncate(self, sequence: int, length: int) -> None:
        del self.live[sequence][length:]

    def free(self, sequence: int) -> None:
        del self.live[sequence]

    def length(self, sequence: int) -> int:
        return len(self.live[sequence])

    def step(self, feeds: Sequence[Feed]) -> NDArray[np.float32]:
        rows = [row for feed in feeds for row in self._run(feed)]
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.vocabulary)

    def _new(self, tokens: list[int]) -> int:
        self._handles += 1
        self.live[self._handles] = tokens
        return self._handles

    def _run(self, feed: Feed) -> list[NDArray[np.float32]]:
        tokens = self.live[feed.sequence]
        tokens.extend(int(token) for token in feed.tokens)
        count = {"all": len(feed.tokens), "last": 1, "none": 0}[feed.wanted]
        return [self._logits(tuple(tokens[: len(tokens) - later])) for later in reversed(range(count))]

    def _logits(self, tokens: tuple[int, ...]) -> NDArray[np.float32]:
        if tokens not in self._known:
            with torch.inference_mode():
                self._known[tokens] = self.model(torch.tensor([tokens])).logits[0, -1].numpy()
        return self._known[tokens]
