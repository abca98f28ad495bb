"""Models of every family on disk, engines over them, and tokenizers of each kind that splits characters or spaces."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from kbit.core.plan import Plan
from kbit.engine.engine import Engine
from kbit.engine.feeds import Feed
from kbit.engine.plan import make_encoder_decoder_plan, make_plan
from kbit.engine.reference import ReferenceEngine
from kbit.engine.reference_pair import ReferenceEncoderDecoder
from kbit.engine.weights import ModelWeights
from kbit.folding.choose import DEFAULT_FOLD, FoldChoice
from kbit.model import quantize_folder
from kbit.store.folder import open_model

from .models import KINDS, build, difference, save

Checkpoint = Callable[[str], Path]
Engines = Callable[..., ReferenceEngine]
Pack = Callable[..., Path]
Pairs = Callable[[Path], ReferenceEncoderDecoder]
Plain = Callable[[dict[str, torch.Tensor]], ModelWeights]


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Name of a kind → folder of the model as transformers saves it."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = save(build(name), tmp_path_factory.mktemp(name))
        return made[name]

    return make


@pytest.fixture(scope="session")
def pack(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Name of a kind, a plan (and whether rotations are folded) → its checkpoint packed by kbit, made once a session."""
    made: dict[tuple[str, Plan, str], Path] = {}

    def make(name: str, plan: Plan, *, fold: FoldChoice = DEFAULT_FOLD) -> Path:
        key = name, plan, fold
        if key not in made:
            made[key] = tmp_path_factory.mktemp("packed") / name
            quantize_folder(checkpoint(name), made[key], plan, fold=fold, progress=False)
        return made[key]

    return make


def check_packed_engine(folder: Path, kind: str, tokens: list[int], tolerance: float) -> None:
    """A packed model in the engine: exact mode is the reference's within `tolerance`, with the same bytes token by token and on any number
    of threads; fast mode is near it.
    """
    with open_model(folder) as stored:
        weights = ModelWeights(stored)
        forward = make_plan(stored.config, weights, KINDS[kind].context)
        reference = ReferenceEngine(forward, weights)
        expected = reference.step([Feed(reference.sequence(), tokens, "all")])
        engine, three = (Engine(forward, weights, mode="exact", cache="fp32", cache_positions=1024, threads=threads) for threads in (1, 3))
        fast = Engine(forward, weights, mode="fast", cache="fp32", cache_positions=1024)
    got = engine.step([Feed(engine.sequence(), tokens, "all")])
    assert difference(got, expected) < tolerance
    one_by_one = engine.sequence()
    rows = [engine.step([Feed(one_by_one, [token], "all")]) for token in tokens]
    assert np.concatenate(rows).tobytes() == got.tobytes()
    assert three.step([Feed(three.sequence(), tokens, "all")]).tobytes() == got.tobytes()
    loose = fast.step([Feed(fast.sequence(), tokens, "all")])
    assert np.sqrt(np.square(loose - expected).mean()) < 0.2 * np.sqrt(np.square(expected).mean())  # int8 may turn a router's choice


@pytest.fixture
def engines() -> Iterator[Engines]:
    """Folder (and context) → a reference engine over it; files are closed at the end of the test."""
    with ExitStack() as stack:

        def open_engine(folder: Path, context: int | None = None) -> ReferenceEngine:
            stored = stack.enter_context(open_model(folder))
            weights = ModelWeights(stored)
            return ReferenceEngine(make_plan(stored.config, weights, context), weights)

        yield open_engine


@pytest.fixture
def pairs() -> Iterator[Callable[[Path], ReferenceEncoderDecoder]]:
    """Folder → a reference engine over a model with encoder and decoder."""
    with ExitStack() as stack:

        def open_engine(folder: Path) -> ReferenceEncoderDecoder:
            stored = stack.enter_context(open_model(folder))
            weights = ModelWeights(stored)
            return ReferenceEncoderDecoder(make_encoder_decoder_plan(stored.config, weights), weights)

        yield open_engine


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Plain]:
    """Tensors → weights over a checkpoint that holds nothing else."""
    with ExitStack() as stack:

        def make(tensors: dict[str, torch.Tensor]) -> ModelWeights:
            (tmp_path / "config.json").write_text("{}")
            save_file(tensors, tmp_path / "model.safetensors")
            return ModelWeights(stack.enter_context(open_model(tmp_path)))

        yield make


@pytest.fixture
def engine(checkpoint: Checkpoint, engines: Engines) -> Callable[[str], ReferenceEngine]:
    """Name of a kind → a reference engine over its checkpoint."""
    return lambda name: engines(checkpoint(name), KINDS[name].context)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    """Bytes are ids 0…255 in the order of their letters; a few merges, two of which end inside a character; <s> and </s> are special."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letter_of = dict(zip(_byte_order(), letters, strict=True))
    e2, ac, f0, x9f = (letter_of[byte] for byte in (0xE2, 0xAC, 0xF0, 0x9F))
    merges = [("a", "b"), ("Ġ", "t"), ("Ġt", "h"), (f0, x9f), (ac, "a"), ("Ġ", e2)]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    vocabulary |= {"".join(merge): 256 + i for i, merge in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    return tokenizer


def _byte_order() -> list[int]:
    """Bytes in the order of their letters (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letter = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return sorted(letter, key=lambda byte: letter[byte])


@pytest.fixture(scope="session")
def byte_fallback() -> Tokenizer:
    """As Llama 2 has it: ▁ for spaces, <0xE2> for what is not in the vocabulary, one leading space dropped."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghij.", "▁a", "▁b", "ab", "é"]
    vocabulary = {word: i for i, word in enumerate(words)}
    merges = [("▁", "a"), ("▁", "b"), ("a", "b")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


@pytest.fixture(scope="session")
def metaspace() -> Tokenizer:
    words = ["<unk>", "▁", "▁a", "▁b", "a", "b", "ab", "▁▁", "\ufffd", "é"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


@pytest.fixture(scope="session")
def word_piece() -> Tokenizer:
    words = ["[UNK]", "a", "b", "##a", "##b", ".", "n't", "'", "\ufffd"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


@pytest.fixture(scope="session")
def tokenizers_by_name(byte_level: Any, byte_fallback: Any, metaspace: Any, word_piece: Any) -> dict[str, Tokenizer]:
    return {"byte_level": byte_level, "byte_fallback": byte_fallback, "metaspace": metaspace, "word_piece": word_piece}


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., Any]:
    """A Llama of random weights with a wide spread, so that no two tokens are nearly equal."""

    def build(seed: int = 0, vocab_size: int = 48, positions: int = 128) -> Any:
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=positions,
            initializer_range=0.3,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        return transformers.LlamaForCausalLM(config).eval()

    return build
