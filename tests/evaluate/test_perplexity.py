import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from kbit.core.errors import ModelError, NumericsError, ShapeError
from kbit.evaluate.perplexity import perplexity, row_slices, token_nats
from kbit.evaluate.windows import TokenizedText, Windows

Build = Callable[..., torch.nn.Module]
Text = Callable[..., TokenizedText]


def straightforward(model: torch.nn.Module, ids: list[int], context: int, stride: int, bos: str, bos_id: int) -> list[float]:
    """Loss of each token from a model call of its own."""
    losses = []
    stream = [bos_id, *ids] if bos == "text" else ids
    offset = 0 if bos == "window" else 1
    for j, position in enumerate(range(offset, len(stream))):  # j were scored before this one
        window = 0 if j < context else 1 + (j - context) // stride
        before = stream[window * stride : position]
        inputs = [bos_id, *before] if bos == "window" else before
        with torch.no_grad():
            logits = model(torch.tensor([inputs])).logits[0, -1]
        losses.append(float(functional.cross_entropy(logits.double(), torch.tensor(stream[position]))))
    return losses


@pytest.mark.parametrize("bos", ["none", "text", "window"])
@pytest.mark.parametrize(("context", "stride"), [(8, 8), (8, 3), (12, 1)])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_equals_a_straightforward_loop(
    tiny_llama: Build, random_text: Text, bos: str, context: int, stride: int, batch_size: int | None
) -> None:
    model, text = tiny_llama(), random_text(30, bos_id=7)
    windows = Windows(text, context=context, stride=stride, bos=bos)  # type: ignore[arg-type]
    result = perplexity(model, windows, batch_size=batch_size)
    losses = straightforward(model, list(map(int, text.ids)), context, stride, bos, 7)
    assert result.protocol.tokens == len(losses)
    assert result.nats_per_token.value == pytest.approx(np.mean(losses), rel=1e-5)
    assert result.perplexity.value == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    text_bytes = int(text.byte_ends[-1] - text.byte_ends[1 if bos == "none" else 0])
    assert result.bits_per_byte.value == pytest.approx(sum(losses) / math.log(2) / text_bytes, rel=1e-5)


def test_is_the_loss_that_transformers_computes(tiny_llama: Build, random_text: Text) -> None:
    model, text = tiny_llama(), random_text(17)
    ids = torch.from_numpy(text.ids)[None]
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    assert perplexity(model, Windows(text, context=16)).nats_per_token.value == pytest.approx(expected, rel=1e-6)


def test_uniform_model_scores_the_logarithm_of_its_vocabulary(random_text: Text) -> None:
    class Uniform(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.zeros(*ids.shape, 50))

    result = perplexity(Uniform(), Windows(random_text(65), context=8))
    assert result.perplexity.value == pytest.approx(50.0)
    assert result.perplexity.low == pytest.approx(50.0)
    assert result.to_json()["perplexity"] == result.perplexity.value
    assert set(result.to_json()["intervals"]) == {"perplexity", "nats_per_token", "bits_per_byte"}


def test_big_vocabularies_are_reduced_a_few_rows_at_a_time() -> None:
    rows = torch.randn(9, 200_000, generator=torch.Generator().manual_seed(0)) * 20
    parts = list(row_slices(rows))
    assert len(parts) == 9
    assert len(list(row_slices(rows[:, :4096]))) == 1
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(9))
    assert max(part.stop - part.start for part in parts) * 200_000 <= 1 << 18
    targets = np.arange(9) * 20_000
    expected = functional.cross_entropy(rows.double(), torch.from_numpy(targets), reduction="none")
    assert token_nats(rows, targets) == pytest.approx(expected.numpy(), rel=1e-12)


def test_same_figures_again_and_the_model_as_it_was(tiny_llama: Build, random_text: Text) -> None:
    model, windows = tiny_llama(), Windows(random_text(41), context=8)
    model.train()
    model.model.layers[0].eval()  # type: ignore[union-attr, index, operator]
    before = [module.training for module in model.modules()]
    assert perplexity(model, windows) == perplexity(model, windows)
    assert [module.training for module in model.modules()] == before


def test_progress_goes_to_stderr_only(tiny_llama: Build, random_text: Text, capsys: pytest.CaptureFixture[str]) -> None:
    perplexity(tiny_llama(), Windows(random_text(33), context=8), progress=True)
    captured = capsys.readouterr()
    assert "32/32 tokens" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_bad_logits_are_named(tiny_llama: Build, random_text: Text, value: float) -> None:
    class Broken(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> SimpleNamespace:
            logits = torch.zeros(*ids.shape, 50)
            logits[..., 3] = torch.where(ids == 49, value, 0.0)
            return SimpleNamespace(logits=logits)

    text = TokenizedText(np.array([1] * 13 + [49] + [1] * 11), np.arange(26), None, "t", "k")
    with pytest.raises(NumericsError, match=r"got -?(nan|inf) in window 1, token 5, entry 3"):
        perplexity(Broken(), Windows(text, context=8))


def test_models_and_texts_that_do_not_fit_are_refused(tiny_llama: Build, random_text: Text) -> None:
    model = tiny_llama(positions=16)
    with pytest.raises(ShapeError, match="16 positions, got 17"):
        perplexity(model, Windows(random_text(40), context=17))
    with pytest.raises(ModelError, match="vocabulary of 50, got 69"):
        perplexity(model, Windows(TokenizedText(np.arange(70), np.arange(71), None, "t", "k"), context=8))
    with pytest.raises(ShapeError, match="batch size"):
        perplexity(model, Windows(random_text(40), context=8), batch_size=0)


def test_only_causal_language_models_are_scored(random_text: Text) -> None:
    class SeesAll(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(50, 50)

        def forward(self, ids: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.table(ids) + self.table(ids).mean(dim=1, keepdim=True))

    class EncoderDecoder(SeesAll):
        config = SimpleNamespace(is_encoder_decoder=True)

    class Headless(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return ids

    windows = Windows(random_text(40), context=8)
    for model, message in ((SeesAll(), "later tokens"), (EncoderDecoder(), "encoder-decoder"), (Headless(), "logits of shape")):
        with pytest.raises(ModelError, match=message):
            perplexity(model, windows)
