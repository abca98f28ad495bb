import json
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from kbit.core.errors import FormatError, LimitError
from kbit.store.check import check_folder, check_tokenizer, load_tokenizer, side_files

Put = Callable[..., Path]


def model_folder(path: Path, config: object = None) -> Path:
    path.mkdir(exist_ok=True)
    save_file({}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "llama"} if config is None else config))
    return path


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was executed",))


def test_an_honest_folder_gives_its_config(tmp_path: Path) -> None:
    assert check_folder(model_folder(tmp_path)) == {"model_type": "llama"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "weights.pkl", "last.ckpt"])
def test_pickles_alone_are_refused_and_beside_safetensors_ignored(tmp_path: Path, name: str) -> None:
    folder = model_folder(tmp_path)
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    check_folder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=rf"pickles only \({name}\).*convert them to safetensors"):
        check_folder(folder)


@pytest.mark.parametrize("config", [{"auto_map": {"AutoModel": "x.Y"}}, {"text_config": {"auto_map": "x"}}, {"a": [{"auto_map": ["x"]}]}])
def test_code_in_the_configuration_needs_a_word(tmp_path: Path, config: object) -> None:
    folder = model_folder(tmp_path, config)
    with pytest.raises(FormatError, match="field 'auto_map'"):
        check_folder(folder)
    assert check_folder(folder, allow_code=True) == config
    (folder / "config.json").write_text('{"auto_map": {}}')
    check_folder(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match=r"tokenizer_config\.json: field 'auto_map'"):
        check_folder(folder)


def test_what_is_no_folder_or_no_config(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="expected a folder"):
        check_folder(tmp_path / "absent")
    folder = model_folder(tmp_path)
    for text in ("[]", "[" * 100_000, '{"a": NaN}', " " * (2 << 20), '{"a":1,"a":2}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(FormatError, match=r"config\.json"):
            check_folder(folder)


BAD_TOKENIZERS = {
    "empty": b"",
    "list": b"[]",
    "deep": b"[" * 1_000_000,
    "deep-object": b'{"a":' * 100 + b"1" + b"}" * 100,
    "open": b'{"a": [1}',
    "closed": b"{}}",
    "utf-8": b'{"a": "\xff"}',
    "cut-utf-8": '{"a": "é"}'.encode()[:-3],
    "nul": b'{"a": "\0"}',
    "brackets": b"{" + b"[]," * 2_100_000 + b"}",
    "open-string": b'{"a":"' + b'\\"' * 10_000_000,
    "spaces": b" " * 20_000_000,
}


@pytest.mark.parametrize("name", BAD_TOKENIZERS)
def test_a_crafted_tokenizer_is_refused_before_the_library_sees_it(put: Put, name: str) -> None:
    path = put(BAD_TOKENIZERS[name], "tokenizer.json")
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"tokenizer\.json: "):
        check_tokenizer(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_a_huge_tokenizer_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(LimitError, match="at most"):
        check_tokenizer(tmp_path / "tokenizer.json")


def test_brackets_in_strings_are_no_depth(put: Put) -> None:
    check_tokenizer(put(json.dumps({"vocab": {"[" * 200: 0, '"\\': 1, "{\\\\": 2}}).encode(), "tokenizer.json"))


def test_utf8_may_straddle_the_pieces_it_is_checked_in(put: Put) -> None:
    check_tokenizer(put(b'{"a": "' + b"x" * ((1 << 20) - 8) + "é".encode() * 10 + b'"}', "tokenizer.json"))


def test_what_the_library_refuses_is_a_typed_error(put: Put) -> None:
    for text in ("{}", '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'):
        with pytest.raises(FormatError, match="not a tokenizer"):
            load_tokenizer(put(text.encode(), "tokenizer.json"))


def test_real_tokenizers_load(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("models/*/tokenizer.json")):
        assert load_tokenizer(path).get_vocab_size() > 0


def test_side_files_that_are_no_files_stay_behind(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    os.mkfifo(folder / "vocab.txt")
    (folder / "merges.txt").symlink_to("/dev/zero")
    (folder / "tokenizer.json").mkdir()
    assert side_files(folder) == []
    (tmp_path / "secret").write_text("x")
    (folder / "LICENSE").symlink_to("../secret")
    with pytest.raises(FormatError, match="expected a file inside"):
        side_files(folder)


def test_side_files_are_tokenizer_settings_and_licence(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    wanted = ["LICENSE", "generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "vocab.txt"]
    for name in (*wanted, "modeling_x.py", "pytorch_model.bin", "training.json", "tokenizer.py", "optimizer.pt"):
        (folder / name).touch()
    assert [path.name for path in side_files(folder)] == wanted
