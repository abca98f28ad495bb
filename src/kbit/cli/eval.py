"""`kbit eval`: loss of a model on text, and its distance from the original."""

import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from kbit.cli.options import Bits, Context, Debug, Json, Limit, Mode, Stride, Texts, Threads
from kbit.cli.output import Output, verb
from kbit.core.sizes import bytes_text

__all__ = ["books", "evaluate"]

_WIDTH = 78
#: key of the result → its name for people, and its format
_FIGURES = {
    "perplexity": ("perplexity", ".4f"),
    "reference_perplexity": ("perplexity of the original", ".4f"),
    "perplexity_ratio": ("perplexity ratio", ".5f"),
    "bits_per_byte": ("bits per byte", ".4f"),
    "kl_mean": ("KL mean, nats a token", ".6f"),
    "kl_median": ("KL median", ".6f"),
    "kl_p99": ("KL 99%", ".6f"),
    "kl_p999": ("KL 99.9%", ".6f"),
    "kl_max": ("KL largest", ".6f"),
    "top1_agreement": ("same top-1", ".4f"),
    "bpw": ("bits per encoded weight", ".4f"),
    "bpw_file": ("bits per weight, whole file", ".4f"),
}


@verb
def evaluate(
    model: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a packed or ordinary model.")],
    against: Annotated[str | None, typer.Option("--against", metavar="MODEL", help="Original to compare with: adds KL and top-1.")] = None,
    text: Texts = None,
    context: Context = 512,
    stride: Stride = 0,
    limit_tokens: Limit = 0,
    bits: Bits = None,
    mode: Mode = "fast",
    threads: Threads = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure perplexity and bits per byte on text, the distance from an original, and the true size.

    Without --text, excerpts of eight public-domain books are read (about 14,000 tokens).
    """
    from kbit.cli.threads import use_threads
    from kbit.evaluate.folder import evaluate_folder

    output = Output(json)
    use_threads(threads)
    found = evaluate_folder(
        model,
        against,
        text or [books()],
        context=context or None,
        stride=stride or None,
        limit_tokens=limit_tokens or None,
        mode=mode,
        bits=bits,
        progress=True,
    )
    facts = found.to_json()
    _print(output, facts, found.loss.protocol.text)
    output.result(facts)


def books() -> Path:
    """The embedded evaluation text: a folder of excerpts."""
    from importlib.resources import files

    return Path(str(files("kbit").joinpath("data", "books")))


def _print(output: Output, facts: dict[str, Any], protocol: str) -> None:
    for key, (name, form) in _FIGURES.items():
        if facts.get(key) is not None:
            low, high = facts["intervals"].get(key) or (None, None)
            interval = f"  [{low:{form}}, {high:{form}}]" if low is not None and high is not None else ""
            output.say(f"{name:<27}{facts[key]:>12{form}}{interval}")
    output.say(f"{'file size':<27}{bytes_text(facts['file_bytes']):>12}")
    output.say()
    output.say(textwrap.fill(f"protocol: {protocol}; brackets are 95% intervals over the windows", _WIDTH, subsequent_indent="  "))
