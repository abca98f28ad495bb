"""Conversations: rendered by the tokenizer's template, or a clear error."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from kbit.calibrate import CalibrationText
from kbit.calibrate.chat import ChatTemplate
from kbit.calibrate.text import read_documents
from kbit.core.errors import FormatError, ModelError

TEMPLATE = "{% for message in messages %}<{{ message.role }}> {{ message.content }} {% endfor %}"
TALK = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3 w4 w5"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    words = {word: index for index, word in enumerate(["w0", "w1", "w2", "w3", "w4", "w5", "<", ">", "user", "assistant"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(made / "tokenizer.json"))
    (made / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (made / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}))
    return made


def test_messages_become_the_text_that_the_model_sees(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in ({"messages": TALK}, {"text": "w1"})))
    assert read_documents(file, ChatTemplate(folder)) == ["<user> w1 w2 <assistant> w3 w4 w5 ", "w1"]
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    windows = CalibrationText((file,), tokens=8, context=8).windows(backend, chat=ChatTemplate(folder))
    assert windows.ids.tolist() == [[6, 8, 7, 1, 2, 6, 9, 7]]


@pytest.mark.parametrize("messages", ["hello", [], [{"role": "user"}], [{"role": 1, "content": "a"}], ["a"], None])
def test_what_are_no_messages(messages, folder: Path) -> None:
    with pytest.raises(FormatError, match="line 3: expected 'messages' as a list"):
        ChatTemplate(folder).render(messages, "line 3")


def test_no_template_and_one_that_refuses(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ raise_exception('roles must alternate') }}"})
    )
    with pytest.raises(FormatError, match="line 1: the chat template does not take these messages: roles must alternate"):
        ChatTemplate(folder).render(TALK, "line 1")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(ModelError, match="its tokenizer has no chat template, which 'messages' need"):
        ChatTemplate(folder).render(TALK, "line 1")
