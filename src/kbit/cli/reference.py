"""The reference page of the command line (`docs/cli.md`), made from the verbs themselves so that it cannot go stale unseen.

The page is rendered from the parameters, not from the help screen: widths and wording of the latter change with typer's version.
"""

from collections.abc import Mapping
from typing import Any

import typer.main

from kbit.cli.main import app

__all__ = ["KEYS", "markdown"]

_OPENING = """# Command line

<!-- made by scripts/docs from the verbs' own help: edit that, not this page -->

Every verb takes `--json` (one JSON object on stdout, progress on stderr) and `--debug` (traceback of an error).

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | an error, explained in one line on stderr |
| 2 | bad usage |
| 130 | interrupted |
| 141 | the reader of stdout went away |
"""

#: keys of each verb's JSON object; stable, more may be added
KEYS: Mapping[str, str] = {
    "demo": "rows recommended reason report",
    "quantize": "scheme bpw bpw_file file_bytes seconds peak_rss_bytes parts root source_bytes estimate_bytes quantized_weights parameters "
    "modules kept notes calibration check band allocation",
    "calibrate": "path tokens seed digest weights experts unseen",
    "eval": "perplexity nats_per_token bits_per_byte kl_mean kl_median kl_p99 kl_p999 kl_max top1_agreement perplexity_ratio "
    "reference_perplexity intervals bpw bpw_file file_bytes tokenizer_bytes quantized_weights parameters parts_bits tokens protocol mode "
    "seconds",
    "bench": "prefill_tokens_per_s decode_tokens_per_s decode_gb_per_s memory_roof_gb_per_s int8_roof_gmac_per_s threads isa load_seconds "
    "peak_rss_bytes weight_bytes_per_token prompt_tokens decode_tokens repeats runner",
    "run": "text token_ids finish_reason prefill_ms decode_ms runner logprobs",
    "show": "path base_model plan root ties rotations weights file_bytes bpw_file tensors totals",
    "decode": "path dtype file_bytes parameters",
    "train": "models folder",
    "study": "rows measured failed seconds store",
    "verify": "ok root chunks files modules size_bytes",
    "fit": "laws refused outliers predictions",
    "advise": "options frontier warnings nearest",
    "report": "report rows laws no_laws",
    "doctor": "kbit python platform isa available_isas threads huge_pages memory_roof_gb_per_s tuning extras hints",
}

_REMARKS = {
    "bench": "with `--tune`: `path`, `processor`, `isa`, `kbit`, `threads`, and `choices` of `bits`, `straight`, "
    "`group`, `rows`, `cols`, `tokens`, `variant`, `default`, `gain`",
    "demo": "a row has `scheme`, `k`, `bpw`, `file_bytes`, `perplexity`, `kl_mean`, `top1_agreement`, `decode_tokens_per_s`, and intervals",
    "eval": "what needs an original is null without `--against`",
    "advise": "an option has `label`, `model`, `scheme`, `bpw`, `loss`, `loss_low`, `loss_high`, `perplexity`, `bytes`, `weight_bytes`, "
    "`kv_bytes`, `workspace_bytes`, `tokens_per_s`, `note`, `reason`; `nearest` says what would fit where nothing does",
    "fit": "a law has `form`, `formula`, `coefficients`, `intervals`, `heldout_error`; a prediction, in the order of the rows, "
    "`perplexity`, `low`, `high`, `form`, `note`",
    "report": "`laws` has `form` and `heldout_error`; without laws, `no_laws` says why",
    "run": "`text` is without the prompt; `finish_reason` is `stop`, `length` or `deadline`",
    "show": "a tensor has `name`, `kind`, `shape`, `scheme`, `weights`, `bytes`, `bpw`, `error`",
    "study": "a row has the columns of `kbit.study.columns`; with `--dry-run`: `cells`, `missing`, `gmacs`, `seconds`, `workers`, `models`",
    "train": "a model has the keys of its `training.json`",
    "verify": "where something does not hold, `ok` is false, `error` says what, and the exit code is 1",
}


def markdown() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    return _OPENING + "".join(_verb(name, command) for name, command in group.commands.items())


def _verb(name: str, command: Any) -> str:
    parameters = [parameter for parameter in command.params if parameter.name != "help"]
    arguments = [_metavar(parameter) for parameter in parameters if parameter.param_type_name == "argument"]
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in command.help.split("\n\n"))
    rows = "".join(_row(parameter) for parameter in parameters if parameter.name not in ("json", "debug"))
    required = [f"{parameter.opts[0]} {_metavar(parameter)}" for parameter in parameters if parameter.required]
    usage = " ".join(["kbit", name, *arguments, *required[len(arguments) :], "[OPTIONS]"])
    keys = ", ".join(f"`{key}`" for key in KEYS[name].split()) + (f" ({_REMARKS[name]})" if name in _REMARKS else "")
    return f"\n## kbit {name}\n\n    {usage}\n\n{text}\n\n| | | default |\n|---|---|---|\n{rows}\nJSON: {keys}.\n"


def _row(parameter: Any) -> str:
    name = _metavar(parameter) if parameter.param_type_name == "argument" else ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "option" and not parameter.is_flag:
        name += f" {_metavar(parameter)}"
    return f"| `{name}` | {_escaped(parameter.help or '')} | {_default(parameter)} |\n"


def _metavar(parameter: Any) -> str:
    """The placeholder that the verb itself names; types and their names are typer's own affair."""
    return str(parameter.metavar or "VALUE")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default is None or parameter.default is False or callable(parameter.default):
        return ""
    return "on" if parameter.default is True else f"`{parameter.default}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
