"""The one call: text, pieces, reasons to end, times; and what it leaves behind, which is nothing."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from kbit.core.errors import LimitError, ModelError, NumericsError, SchemeError
from kbit.engine.beam_options import BeamOptions
from kbit.engine.generate import generate, generate_batch, stream_generate
from kbit.engine.generate_options import GenerateOptions
from kbit.engine.request import Request
from kbit.engine.sampling_options import SamplingOptions
from kbit.engine.stepper import Feed

from .fakes import HashStepper, alone

VOCABULARY = 265


def _options(**options: Any) -> GenerateOptions:
    return GenerateOptions(**{"max_tokens": 20, **options})


def _alone(tokenizer: Any, prompt: str, options: GenerateOptions) -> list[int]:
    ids = tuple(tokenizer.encode(prompt).ids)
    return alone(Request(ids, options.max_tokens, options.sampling, options.ends), HashStepper(VOCABULARY))


@pytest.mark.parametrize("sampling", [SamplingOptions(), SamplingOptions(temperature=0.8, seed=5, repetition_penalty=1.1)])
def test_tokens_and_text(sampling: SamplingOptions, byte_level: Any) -> None:
    stepper, options = HashStepper(VOCABULARY), _options(sampling=sampling)
    found = generate(stepper, byte_level, "ab th", options)
    assert found.token_ids == _alone(byte_level, "ab th", options)
    assert found.text == byte_level.decode(found.token_ids)
    assert found.finish_reason == "length"
    assert found.prefill_ms > 0
    assert found.decode_ms > 0
    assert found.logprobs is found.prompt_logprobs is None
    assert not stepper.live
    assert {"text", "token_ids", "finish_reason", "prefill_ms", "decode_ms"} <= set(asdict(found))


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
@pytest.mark.parametrize("speculate", [None, "lookup", "model"])
def test_pieces_make_the_text(name: str, speculate: str | None, tokenizers_by_name: dict) -> None:
    tokenizer = tokenizers_by_name[name]
    stepper, other = HashStepper(280), HashStepper(280, spread=3.9)
    options = _options(max_tokens=60, speculate=other if speculate == "model" else speculate)
    stream = stream_generate(stepper, tokenizer, "ab", options)
    pieces = list(stream)
    assert len(pieces) > 4
    assert all(pieces)
    assert "".join(pieces) == stream.result.text == generate(stepper, tokenizer, "ab", _options(max_tokens=60)).text
    assert not other.live


def test_a_stop_string(byte_level: Any) -> None:
    free = generate(HashStepper(VOCABULARY), byte_level, "ab", _options())
    stop = free.text[4:7]
    found = generate(HashStepper(VOCABULARY), byte_level, "ab", _options(stop=("never", stop)))
    assert (found.finish_reason, found.stop) == ("stop", stop)
    assert found.text == free.text[:4]
    assert len(found.token_ids) < len(free.token_ids)
    assert "".join(stream_generate(HashStepper(VOCABULARY), byte_level, "ab", _options(stop=(stop,)))) == free.text[:4]


def test_a_stop_string_that_waits_for_a_longer_one_at_the_end(byte_level: Any) -> None:
    free = generate(HashStepper(VOCABULARY), byte_level, "ab", _options())
    stop = free.text[-1]
    assert free.text.count(stop) == 1
    found = generate(HashStepper(VOCABULARY), byte_level, "ab", _options(stop=(stop, stop + "more")))
    assert (found.text, found.stop, found.finish_reason) == (free.text[:-1], stop, "stop")


def test_an_ending_token(byte_level: Any) -> None:
    free = generate(HashStepper(VOCABULARY), byte_level, "ab", _options())
    found = generate(HashStepper(VOCABULARY), byte_level, "ab", _options(ends=frozenset([free.token_ids[6]])))
    assert found.finish_reason == "stop"
    assert found.token_ids == free.token_ids[:7]
    assert found.text == byte_level.decode(free.token_ids[:6])


def test_log_probabilities(byte_level: Any) -> None:
    found = generate(HashStepper(VOCABULARY), byte_level, "ab th", _options(logprobs=2, prompt_logprobs=0))
    assert found.logprobs is not None
    assert found.prompt_logprobs is not None
    assert [named.token for named in found.logprobs] == found.token_ids
    assert found.prompt_logprobs[0] is None
    assert [named.token for named in found.prompt_logprobs[1:] if named] == byte_level.encode("ab th").ids[1:]
    assert all(named.top[0] == (named.token, named.logprob) for named in found.logprobs)  # the likeliest was taken


def test_beams(byte_level: Any) -> None:
    stepper, options = HashStepper(VOCABULARY), _options(beam=BeamOptions(beams=3, returned=2))
    found = generate(stepper, byte_level, "ab", options)
    stream = stream_generate(stepper, byte_level, "ab", options)
    assert list(stream) == [found.text]
    assert stream.result.token_ids == found.token_ids
    assert len(found.others) == 1
    assert generate_batch(stepper, byte_level, ["ab", "th"], options)[0].token_ids == found.token_ids
    assert not stepper.live


def test_many_prompts_are_each_as_alone(byte_level: Any) -> None:
    stepper = HashStepper(VOCABULARY, capacity=400)
    prompts = [f"{'ab' * (i % 5)} th {i}" for i in range(40)]
    options = _options(sampling=SamplingOptions(temperature=1.0, seed=3), stop=("a",))
    together = generate_batch(stepper, byte_level, prompts, options)
    for prompt, found in zip(prompts, together, strict=True):
        single = generate(HashStepper(VOCABULARY), byte_level, prompt, options)
        assert (found.text, found.token_ids, found.finish_reason) == (single.text, single.token_ids, single.finish_reason)
    assert not stepper.live
    assert stepper.refusals


def test_one_that_fails_among_many(byte_level: Any) -> None:
    stepper = HashStepper(VOCABULARY, poison=70)
    bad, good = generate_batch(stepper, byte_level, [[5, 70], [5, 6]], _options(sampling=SamplingOptions(logit_bias={70: -np.inf})))
    assert bad.finish_reason == "error"
    assert isinstance(bad.error, NumericsError)
    assert good.finish_reason == "length"
    with pytest.raises(NumericsError):
        generate(stepper, byte_level, [5, 70], _options())
    assert not stepper.live


def test_a_deadline_gives_what_has_come(byte_level: Any) -> None:
    stepper = HashStepper(VOCABULARY)
    found = generate(stepper, byte_level, "ab", _options(max_tokens=10**6, max_time_ms=50))
    assert found.finish_reason == "deadline"
    assert found.token_ids
    assert found.text == byte_level.decode(found.token_ids)
    assert found.prefill_ms + found.decode_ms < 5000


@pytest.mark.parametrize("options", [{}, {"beam": BeamOptions(beams=3)}])
def test_an_interrupt_frees_everything_within_a_step(options: dict, byte_level: Any) -> None:
    class Interrupted(HashStepper):
        def step(self, feeds: Sequence[Feed]) -> np.ndarray:
            logits = super().step(feeds)
            if len(self.rows) == 5:
                raise KeyboardInterrupt
            return logits

    stepper = Interrupted(VOCABULARY)
    with pytest.raises(KeyboardInterrupt):
        generate(stepper, byte_level, "ab", _options(**options))
    assert len(stepper.rows) == 5
    assert not stepper.live
    expected = generate(HashStepper(VOCABULARY), byte_level, "ab", _options(**options))
    assert generate(stepper, byte_level, "ab", _options(**options)).token_ids == expected.token_ids


@pytest.mark.parametrize("leave", ["close", "with", "drop"])
def test_leaving_a_stream_frees_what_it_holds(leave: str, byte_level: Any) -> None:
    stepper, draft = HashStepper(VOCABULARY), HashStepper(VOCABULARY)
    stream = stream_generate(stepper, byte_level, "ab", _options(max_tokens=500, speculate=draft))
    if leave == "with":
        with stream:
            next(stream)
    else:
        for _ in range(20):
            next(stream)
        assert stepper.live
        stream.close() if leave == "close" else None
        del stream
    assert not stepper.live
    assert not draft.live


def test_a_result_before_its_time(byte_level: Any) -> None:
    stream = stream_generate(HashStepper(VOCABULARY), byte_level, "ab", _options())
    next(stream)
    with pytest.raises(SchemeError, match="read to its end"):
        _ = stream.result
    list(stream)
    assert stream.result.token_ids
    assert list(stream) == []
    assert stream.result.token_ids


@pytest.mark.parametrize(
    "call", [generate, stream_generate, lambda *args, **options: generate_batch(args[0], args[1], [args[2]], **options)]
)
def test_errors_come_before_any_step(call: Callable[..., Any], byte_level: Any) -> None:
    stepper = HashStepper(VOCABULARY, context=30)
    for prompt, error in (("", ModelError), ([VOCABULARY], ModelError), ("x" * 30, LimitError), ([1.5], SchemeError)):
        with pytest.raises(error):
            call(stepper, byte_level, prompt)
    with pytest.raises(ModelError, match="vocabulary"):
        call(stepper, byte_level, "ab", options=GenerateOptions(speculate=HashStepper(9)))
    for beams in (1, 2):
        options = GenerateOptions(beam=BeamOptions(beams=beams), sampling=SamplingOptions(logit_bias={VOCABULARY: 1.0}))
        with pytest.raises(SchemeError, match="got token 265"):
            call(stepper, byte_level, "ab", options=options)
    assert not stepper.rows


def test_the_context_is_the_end(byte_level: Any) -> None:
    found = generate(HashStepper(VOCABULARY, context=30), byte_level, "x" * 27, _options())
    assert (len(found.token_ids), found.finish_reason) == (3, "length")


def test_an_empty_prompt_begins_a_text(byte_level: Any) -> None:
    found = generate(HashStepper(VOCABULARY), byte_level, "", _options(), bos=262)
    assert found.token_ids == alone(Request((262,), 20), HashStepper(VOCABULARY))


def test_a_trained_model(shared_data: Any) -> None:
    """Greedy text is transformers' own; drafts change nothing; a seed repeats a draw."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer

    from .torch_stepper import TorchStepper

    folder = shared_data / "models" / "quill-0.4m"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer, stepper = Tokenizer.from_file(str(folder / "tokenizer.json")), TorchStepper(model)
    prompt = "It was a dark night, and the old man"
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, pad_token_id=0)
    for speculate in (None, "lookup", stepper):
        found = generate(stepper, tokenizer, prompt, _options(max_tokens=40, ends=frozenset([0]), speculate=speculate))
        assert found.token_ids == theirs[0, ids.shape[1] :].tolist()
    penalties = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3}
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, pad_token_id=0, **penalties)
    found = generate(
        stepper, tokenizer, prompt, _options(max_tokens=40, sampling=SamplingOptions(repetition_penalty=1.3, no_repeat_ngram=3))
    )
    assert found.token_ids == theirs[0, ids.shape[1] :].tolist()
    assert not stepper.live
