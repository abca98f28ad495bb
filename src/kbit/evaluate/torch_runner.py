"""A causal language model of transformers' interface, as `bench` drives it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch

from kbit import native
from kbit.core.errors import ModelError
from kbit.evaluate.logits import inference

__all__ = ["TorchRunner", "weight_bytes_per_token"]


class TorchRunner:
    """A model with ``use_cache`` and ``past_key_values``, on the CPU.

    Raises:
        ModelError: another interface; in `decode`, a model without a KV cache.
    """

    name = "transformers"

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.vocabulary = model, _vocabulary(model)
        positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        self.positions = positions if isinstance(positions, int) else None
        self.weight_bytes_per_token = weight_bytes_per_token(model)
        self._output: Any = None

    @classmethod
    def load(cls, path: Path | str, *, mode: str = "fast") -> Self:
        """The model of a folder (errors as `load_causal_model`)."""
        from kbit.evaluate.models import load_causal_model

        return cls(load_causal_model(Path(path), mode=mode))

    @contextmanager
    def threads(self, count: int) -> Iterator[int]:
        """See `Runner.threads`; of kbit's kernels and of torch."""
        before, torch_before = native.threads(), torch.get_num_threads()
        native.set_threads(count)
        used = native.threads()
        torch.set_num_threads(used)
        try:
            with inference(self.model):
                yield used
        finally:
            native.set_threads(before)
            torch.set_num_threads(torch_before)

    def prefill(self, tokens: Sequence[int]) -> None:
        """See `Runner.prefill`."""
        self._output = self.model(torch.tensor([list(tokens)]), use_cache=True)

    def decode(self) -> None:
        """See `Runner.decode`."""
        cache = self._output.past_key_values
        if cache is None:
            raise ModelError(f"expected a model with a KV cache, got {type(self.model).__name__}, which returns none")
        self._output = self.model(self._output.logits[:, -1:].argmax(dim=-1), past_key_values=cache, use_cache=True)


def _vocabulary(model: torch.nn.Module) -> int:
    embedding: Callable[[], Any] | None = getattr(model, "get_input_embeddings", None)
    if embedding is None:
        raise ModelError(f"expected a causal language model of transformers' interface, got {type(model).__name__}")
    return int(embedding().num_embeddings)


def weight_bytes_per_token(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers that one token reads.

    Shared ones count once; an embedding counts one row (its whole table if the head shares it); of a stack of experts, those that a
    token is sent to (`num_experts_per_tok`).
    """
    total: dict[int, int] = {}
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            read = int(tensor.nbytes * _share_read(model, module, tensor))
            total[id(tensor)] = max(read, total.get(id(tensor), 0))
    return sum(total.values())


def _share_read(model: torch.nn.Module, module: torch.nn.Module, tensor: torch.Tensor) -> float:
    if isinstance(module, torch.nn.Embedding):
        return 1 / module.num_embeddings
    shape = getattr(module, "packed_shape", tuple(tensor.shape))
    chosen = getattr(getattr(model, "config", None), "num_experts_per_tok", None)
    return min(1.0, chosen / shape[0]) if len(shape) == 3 and isinstance(chosen, int) else 1.0
