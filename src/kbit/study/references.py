"""Logits of the originals, computed once and kept on disk under the digest of model and windows, for every process of a study."""

import fcntl
from functools import lru_cache
from pathlib import Path

from kbit.core.digest import digest_json
from kbit.core.files import storage_errors
from kbit.evaluate.logits import ReferenceLogits
from kbit.evaluate.models import load_causal_model
from kbit.store.check import check_folder
from kbit.study.text import scored_windows

__all__ = ["reference_logits"]


@lru_cache(maxsize=2)
def reference_logits(model: str, model_sha256: str, text_paths: tuple[str, ...], context: int, windows: int, cache: str) -> ReferenceLogits:
    """The original's logits in float32 on the windows of a text; other processes wait for the one that computes them.

    Raises:
        ModelError, FormatError, StorageError: a model, text or cache that cannot be read.
    """
    scored = scored_windows(model, text_paths, context, windows)
    name = digest_json({"model": model_sha256, "windows": scored.protocol.to_json(), "spread": windows})
    path = Path(cache) / f"reference-{name[:24]}.npy"
    with storage_errors(path, "keep reference logits"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not path.exists():
                with ReferenceLogits.compute(load_causal_model(Path(model)), scored, batch_size=4) as computed:
                    computed.save(path)
    return ReferenceLogits.load(path, scored, int(check_folder(Path(model))["vocab_size"]))
