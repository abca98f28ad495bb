"""`save_pretrained` of a k-bit model ends with kbit's seal, so that `kbit verify`, `show` and `open_model` read the folder.

transformers lets a quantizer change names and metadata of what is saved, the same metadata for every file; a seal holds hashes of each
file's own tensors, and comes after them. So `sealed_save` stands before the method of one model object: transformers saves into a temporary
folder beside the destination, the files are sealed there and then moved over, so that a folder that is being loaded from is never written
to. A folder is left without seal where it could not be read back as one model: adapters, variants, models with code of their own.
"""

import inspect
import tempfile
from pathlib import Path
from typing import Any

from kbit.core.errors import ModelError
from kbit.core.files import storage_errors
from kbit.store.check import side_files
from kbit.store.folder import open_model
from kbit.store.manifest import Manifest
from kbit.store.model_writer import DEFAULT_SHARD_BYTES, seal_model
from kbit.store.shards import INDEX_NAME

__all__ = ["sealed_save"]


def sealed_save(model: Any, *args: Any, **kwargs: Any) -> None:
    """`PreTrainedModel.save_pretrained` for `model`, whose files then carry the seal.

    Raises:
        ModelError: `push_to_hub=True`: files would be sent before they are sealed; `model.push_to_hub(repository)` sends sealed ones.
    """
    ordinary = type(model).save_pretrained
    given = inspect.signature(ordinary).bind(model, *args, **kwargs)
    values = given.arguments
    if values.get("push_to_hub"):
        raise ModelError("push_to_hub=True would send the files before they are sealed: expected model.push_to_hub(repository)")
    if not _can_seal(model, values):
        ordinary(*given.args, **given.kwargs)
        return
    target = Path(values["save_directory"]).absolute()
    with storage_errors(target, "make the folder"):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    with temporary as work:
        folder = Path(work) / target.name
        values["save_directory"] = folder
        ordinary(*given.args, **given.kwargs)
        with open_model(folder, require_seal=False) as stored:
            manifest = model.hf_quantizer.manifest(model, stored)
        _publish(folder, target, manifest)


def _can_seal(model: Any, values: dict[str, Any]) -> bool:
    plain = not any(values.get(name) for name in ("variant", "distributed_checkpoint", "state_dict"))
    whole = values.get("is_main_process", True) and not getattr(model, "_hf_peft_config_loaded", False)
    return bool(plain and whole and not model.is_remote_code())


def _publish(folder: Path, target: Path, manifest: Manifest) -> None:
    """Seal `folder` and move its files to `target`, over those of an earlier save."""
    shards = list(folder.glob("*.safetensors"))
    sharded = (folder / INDEX_NAME).exists()
    kept = {path.name for path in (*side_files(folder), *shards, folder / INDEX_NAME, folder / "config.json")}
    with storage_errors(target, "fill the folder"):
        target.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if path.name not in kept:
                path.replace(target / path.name)
    seal_model(folder, manifest, max_shard_bytes=max(path.stat().st_size for path in shards) if sharded else DEFAULT_SHARD_BYTES)
    with storage_errors(target, "fill the folder"):
        fresh = {path.name for path in folder.iterdir()}
        for path in target.iterdir():
            if path.name not in fresh and (path.name == INDEX_NAME or path.match("model*.safetensors")):
                path.unlink()
        for name in sorted(fresh):
            (folder / name).replace(target / name)
