"""`train_recipe`: the sizes of a recipe, one after another, each resumed where it was.

On one machine it is a plain loop; started by ``accelerate launch`` or ``torchrun`` every process takes its share of each batch, and the
gradients are averaged. A size ends as a folder with ``training.json`` in it; until then its state is ``<size>.checkpoint`` beside that.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from kbit.core.digest import digest_file
from kbit.core.errors import MissingExtraError, NumericsError, ResumeMismatch, SchemeError, StorageError
from kbit.core.files import atomic_directory, lock, read_json, storage_errors, write_json
from kbit.core.progress import Progress
from kbit.evaluate.models import load_causal_model
from kbit.evaluate.perplexity import perplexity
from kbit.evaluate.windows import Windows, tokenize
from kbit.store.tokenizer import load_tokenizer
from kbit.train.build import build_model, optimizer_for, save_model
from kbit.train.checkpoint import Checkpoint, random_state, restore_random_state
from kbit.train.data import TokenStream, end_of_text, prepare_tokens, read_training_text, text_files
from kbit.train.recipe import SizeRecipe, TrainingRecipe
from kbit.train.result import TrainingResult
from kbit.train.schedule import learning_rate
from kbit.train.tracking import check_trackers

__all__ = ["train_recipe"]

#: steps between two entries of the history (the first is of step 1), and steps that a shown training loss is the mean of
_HISTORY_STEPS = _MEAN_STEPS = 50


def train_recipe(
    recipe: TrainingRecipe | str | Path,
    output: str | Path,
    *,
    sizes: Sequence[str] = (),
    trackers: Sequence[str] = (),
    overwrite: bool = False,
    progress: bool | None = False,
) -> list[TrainingResult]:
    """Train the sizes of a recipe; finished ones are left alone, a half-done one goes on where its checkpoint is.

    Args:
        recipe: it, or its file.
        output: folder of the models, ``<name>-<size>`` each; the tokens lie there too.
        sizes: which of them, in this order; all for none.
        trackers: ``tensorboard``, ``wandb``; what they write goes to ``runs`` in the folder.
        overwrite: begin again, and replace what other recipes left.
        progress: lines on stderr, as `Progress`.

    Raises:
        SchemeError: a recipe, size or tracker that cannot be understood; names file and field.
        FormatError, StorageError: text, tokenizer, checkpoint or folder that cannot be read or written.
        ResumeMismatch: the folder holds a model or checkpoint of another recipe.
        NumericsError: the loss is no longer finite; names the step.
        MissingExtraError: transformers, accelerate, zstandard or a tracker is not installed.
    """
    try:
        from accelerate import Accelerator
    except ImportError:
        raise MissingExtraError("accelerate", "hf") from None
    recipe = recipe if isinstance(recipe, TrainingRecipe) else TrainingRecipe.read(recipe)
    check_trackers(trackers)
    chosen = recipe.chosen(tuple(sizes))
    output = Path(output)
    with storage_errors(output, "make the folder"):
        output.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(recipe.tokenizer)
    for size in chosen:  # before hours of work on the first one
        build_model(size, tokenizer, end_of_text(tokenizer), str(recipe.path))
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), log_with=list(trackers) or None, project_dir=output / "runs")
    shown = progress if accelerator.is_main_process else False
    heldout = {context: _heldout_windows(recipe, tokenizer, context) for context in {size.options.context for size in chosen}}
    with accelerator.main_process_first():
        tokens = prepare_tokens(recipe.data.train, tokenizer, recipe.data.separator, output, progress=shown)
    runs = [
        _Run(accelerator, recipe, size, tokenizer, tokens, heldout[size.options.context], output, trackers, shown, overwrite)
        for size in chosen
    ]
    return [run.run() for run in runs]


def _heldout_windows(recipe: TrainingRecipe, tokenizer: Tokenizer, context: int) -> Windows:
    text = "".join(read_training_text(file) for file in text_files(recipe.data.heldout))
    return Windows(tokenize(text, tokenizer), context=context, limit_tokens=recipe.data.heldout_tokens or None)


class _Run:
    """One size."""

    def __init__(
        self,
        accelerator: Any,
        recipe: TrainingRecipe,
        size: SizeRecipe,
        tokenizer: Tokenizer,
        tokens: TokenStream,
        heldout: Windows,
        output: Path,
        trackers: Sequence[str],
        progress: bool | None,
        overwrite: bool,
    ) -> None:
        self._heldout, self._overwrite = heldout, overwrite
        self._accelerator, self._recipe, self._size, self._tokenizer, self._tokens = accelerator, recipe, size, tokenizer, tokens
        self._trackers, self._progress = trackers, progress
        self._name = f"{recipe.name}-{size.name}"
        self._folder = output / self._name
        self._checkpoint = output / f"{self._name}.checkpoint"
        self._digest = recipe.digest(size, tokens.digest)
        self._parts = _parts(size, accelerator.num_processes, str(recipe.path))
        self._done = None if overwrite else self._finished()

    def run(self) -> TrainingResult:
        if self._done is not None:
            return self._done
        with self._alone():
            if self._overwrite and self._accelerator.is_main_process:
                self._checkpoint.unlink(missing_ok=True)
            self._accelerator.wait_for_everyone()
            state = self._train()
            if self._accelerator.is_main_process:
                self._save(state)
                self._checkpoint.unlink(missing_ok=True)
            self._accelerator.wait_for_everyone()
            return TrainingResult(**read_json(self._folder / "training.json"))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        held = lock(self._folder.with_name(f"{self._name}.lock")) if self._accelerator.is_main_process else contextlib.nullcontext()
        with held:
            yield

    def _finished(self) -> TrainingResult | None:
        path = self._folder / "training.json"
        if not path.exists():
            if self._folder.exists() and any(self._folder.iterdir()):
                raise StorageError(f"{self._folder} is not empty and holds no training.json: train into another folder, or use --overwrite")
            return None
        found = read_json(path)
        if not isinstance(found, dict) or found.get("recipe_sha256") != self._digest:
            raise ResumeMismatch(f"{self._folder} was trained by another recipe: train into another folder, or use --overwrite")
        return TrainingResult(**found)

    def _train(self) -> Checkpoint:
        accelerator, options = self._accelerator, self._size.options
        model = build_model(self._size, self._tokenizer, end_of_text(self._tokenizer), str(self._recipe.path))
        optimizer = optimizer_for(model, self._size)
        state = Checkpoint.load(self._checkpoint, self._digest)
        if state is not None:
            model.load_state_dict(state.model)
        wrapped, prepared = accelerator.prepare(model, optimizer)
        if state is not None:
            prepared.load_state_dict(state.optimizer)
            restore_random_state(state.random[min(accelerator.process_index, len(state.random) - 1)])
        else:
            state = Checkpoint(self._digest, 0, {}, {}, [], 0.0)
        if self._trackers:
            accelerator.init_trackers(self._name, config={**asdict(options), "size": self._size.name})
        wrapped.train()
        started = time.monotonic() - state.seconds
        with Progress(options.steps * options.batch_tokens, "tokens", f"train {self._name}", enabled=self._progress) as line:
            line.begin_at(state.step * options.batch_tokens)
            while state.step < options.steps:
                loss = self._step(wrapped, prepared, state.step)
                state.step += 1
                state.seconds = time.monotonic() - started
                self._note(state, loss, line)
                if state.step % options.checkpoint_steps == 0 or state.step == options.steps:
                    self._keep(state, wrapped, prepared)
        if self._trackers:
            accelerator.end_training()
        return state

    def _step(self, model: torch.nn.Module, optimizer: Any, step: int) -> float:
        accelerator, options = self._accelerator, self._size.options
        rate = learning_rate(options, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        mine = self._tokens.batch(step, options.batch_windows, options.context, options.seed)
        mine = mine[accelerator.process_index :: accelerator.num_processes]
        share = len(mine) // self._parts
        total = torch.zeros((), device=accelerator.device)
        for part in range(self._parts):
            ids = torch.from_numpy(self._tokens.windows(mine[part * share : (part + 1) * share], options.context)).to(accelerator.device)
            with contextlib.nullcontext() if part == self._parts - 1 else accelerator.no_sync(model):
                with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
                    logits = model(ids[:, :-1], use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()) / self._parts
                accelerator.backward(loss)
                total += loss.detach()
        if options.clip:
            accelerator.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        optimizer.zero_grad()
        value = float(accelerator.reduce(total, "mean"))
        if not math.isfinite(value):
            raise NumericsError(f"{self._name}: expected a finite loss, got {value} at step {step}: lower the learning rate")
        return value

    def _note(self, state: Checkpoint, loss: float, line: Progress) -> None:
        options = self._size.options
        state.losses = [*state.losses, loss][-_MEAN_STEPS:]
        mean = sum(state.losses) / len(state.losses)
        if state.step % _HISTORY_STEPS == 1 or state.step == options.steps:
            state.history.append([state.step * options.batch_tokens, mean])
        line.advance(options.batch_tokens, f"loss {mean:.3f}")
        if self._trackers:
            self._accelerator.log({"loss": loss, "learning_rate": learning_rate(options, state.step - 1)}, step=state.step)

    def _keep(self, state: Checkpoint, model: torch.nn.Module, optimizer: Any) -> None:
        from accelerate.utils import gather_object

        state.random = gather_object([random_state()])
        state.model = self._accelerator.unwrap_model(model).state_dict()
        state.optimizer = optimizer.state_dict()
        if self._accelerator.is_main_process:
            state.save(self._checkpoint)

    def _save(self, state: Checkpoint) -> None:
        options = self._size.options
        model = build_model(self._size, self._tokenizer, end_of_text(self._tokenizer), str(self._recipe.path))
        model.load_state_dict(state.model)
        with atomic_directory(self._folder, overwrite=self._overwrite) as folder:
            save_model(model, self._recipe.tokenizer, folder, options.precision)
            found = perplexity(load_causal_model(folder).to(self._accelerator.device), self._heldout, progress=self._progress)
            result = TrainingResult(
                size=self._size.name,
                params=sum(parameter.numel() for parameter in model.parameters()),
                tokens=state.step * options.batch_tokens,
                train_loss=sum(state.losses) / len(state.losses),
                heldout_loss=found.nats_per_token.value,
                heldout_tokens=self._heldout.protocol.tokens,
                minutes=state.seconds / 60,
                options=asdict(options),
                history=state.history,
                recipe_sha256=self._digest,
                weights_sha256=digest_file(folder / "model.safetensors"),
            )
            write_json(folder / "training.json", result.to_json())


def _parts(size: SizeRecipe, processes: int, source: str) -> int:
    options = size.options
    if options.batch_windows % (processes * options.accumulation):
        raise SchemeError(
            f"{source}: training.batch_tokens: expected windows a step that divide by processes · accumulation "
            f"({processes} · {options.accumulation}), got {options.batch_windows}"
        )
    return options.accumulation
