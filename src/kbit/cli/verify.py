"""`kbit verify`: holds every byte of a stored model against its hashes. Needs no torch."""

from typing import Annotated

import typer

from kbit.cli.options import Debug, Json
from kbit.cli.output import Output, verb
from kbit.core.errors import KbitError
from kbit.core.sizes import bytes_text, count_text

__all__ = ["verify"]


@verb
def verify(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder of a model, or one of its weight files.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a stored model: every header and tensor against its hash, and the hash that names the whole."""
    from kbit.store.verify import verify as verify_store

    output = Output(json)
    try:
        found = verify_store(path)
    except KbitError as error:
        output.result({"ok": False, "root": None, "chunks": 0, "error": str(error)})
        raise
    facts = {
        "ok": found.ok,
        "root": found.root,
        "chunks": found.tensors,
        "files": found.files,
        "modules": found.modules,
        "size_bytes": found.size_bytes,
    }
    if found.root is None:
        output.say(f"well-formed, but not sealed by kbit: no hashes to check ({bytes_text(found.size_bytes)})")
    else:
        output.say(
            f"ok: {count_text(found.tensors, 'tensor')} and {count_text(found.modules, 'quantized module')} "
            f"in {count_text(found.files, 'file')}, {bytes_text(found.size_bytes)}"
        )
        output.say(f"root {found.root}")
    output.result(facts)
