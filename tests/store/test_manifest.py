import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kbit.core.errors import FormatError, IntegrityError, LimitError
from kbit.core.plan import Plan
from kbit.core.scheme import KEEP, Scheme
from kbit.store.manifest import FORMAT_VERSION, Manifest, Module, bounded_json, merge_manifests

from .conftest import small_manifest


def test_text_form_round_trips() -> None:
    rules = ((r"down_proj$", Scheme.parse("int3:g64:asym:mse")),)
    plan = Plan(Scheme.parse("nf4:g64"), Scheme.parse("int8:g-1"), KEEP, rules=rules, skip=("gate",))
    manifest = replace(small_manifest(), plan=plan, ties={"lm_head.weight": "embed.weight"})
    manifest = replace(manifest, loss=1.5, calibration_digest="a" * 64)
    assert Manifest.from_text(manifest.to_text(), "f") == manifest


def test_the_root_names_everything_but_the_loss() -> None:
    manifest, hashes = small_manifest(), {"a": "0" * 64, "b": "1" * 64}
    root = manifest.root(hashes)
    assert replace(manifest, loss=3.25).root(hashes) == root
    assert manifest.root(dict(reversed(hashes.items()))) == root
    others = [
        replace(manifest, seed=8),
        replace(manifest, base_model="other"),
        replace(manifest, plan=Plan.of("nf4")),
        replace(manifest, ties={"x": "a"}),
        manifest.part(list(manifest.modules)[:1]),
    ]
    roots = {other.root(hashes) for other in others} | {manifest.root({"a": "1" * 64, "b": "0" * 64}), root}
    assert len(roots) == len(others) + 2


def edit(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value.update(changes)


def edit_module(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: next(iter(value["modules"].values())).update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit(format=2, min_reader="9.1"), f"format version 2: expected {FORMAT_VERSION}; reading it needs kbit 9.1 or newer"),
        (edit(format=True), "'format': expected an integer"),
        (edit(format=1.0), "'format': expected an integer"),
        (edit(seed=True), "'seed': expected an integer"),
        (edit(seed=2**63), "'seed': expected an integer"),
        (edit(loss="1"), "'loss': expected a finite number"),
        (edit(loss=True), "'loss': expected a finite number"),
        (edit(surprise=1), "unknown field 'surprise'"),
        (edit(alignment=3), "unknown field 'alignment'"),
        (edit(calibration_digest="abc"), "'calibration_digest': expected 64 hex digits"),
        (edit(base_model=None), "'base_model': expected a text"),
        (edit(base_model="a\0b"), "'base_model': expected a text"),
        (edit(plan={"default": "nf9"}), "'plan': grid 'nf' is defined for"),
        (edit(plan={"default": "nf4:g0"}), "'plan': group_size must be"),
        (edit(plan={"default": "nf4", "rules": [["(" * 5000, "nf4"]]}), "'plan': "),
        (edit(plan=[]), "'plan': "),
        (edit(ties={"a": 1}), "'ties': expected a text"),
        (edit(ties={"a\x1b[2J": "b"}), "'ties': expected a name without control characters, got 'a\\x1b[2J'"),
        (edit(ties={"a": ""}), "'ties': expected a name"),
        (edit(modules={"a\nb": {}}), "'modules': expected a name without control characters"),
        (edit(modules=[]), "'modules': expected an object"),
        (edit(base_model=["x" * 10**6]), "'base_model': expected a text, got ['xxx"),
        (edit(plan={"default": "nf" * 10**6}), "'plan': a scheme has at most 10000 characters"),
        (edit(plan={"default": "nf4", "skip": ["x" * 10**6]}), "'plan': a plan pattern has at most 1000 characters"),
        (edit(**{"x" * 10**6: 1}), "unknown field 'xxx"),
        (edit_module(scheme="nf4:g24"), "'modules': module 'model.layers.0.up_proj': field 'scheme': group_size must be"),
        (edit_module(scheme="nf4:g112"), "'scheme': expected a group size of at most the 96 columns"),
        (edit_module(scheme="nf4:g64", shape=[20, 48]), "at most the 48 columns of a row, got 64 in 'nf4:g64'"),
        (edit_module(scheme="nf4:g16+rotate", shape=[20, 40]), "rows of a multiple of 16 columns to rotate, got 40 in 'nf4:g16+rotate'"),
        (edit_module(scheme="nf4:g64+gptq+rotate"), "'scheme': expected the methods in the order '+rotate+gptq'"),
        (edit_module(scheme="int9"), "'scheme': grid 'int' is defined for 1…8 bits"),
        (edit_module(scheme="16"), "left in 16 bits"),
        (edit_module(scheme=4), "'scheme': "),
        (edit_module(kind="banana"), "'kind': expected one of linear"),
        (edit_module(kind=[]), "'kind': expected one of linear"),
        (edit_module(shape=[0, 4]), "'shape': expected dimensions"),
        (edit_module(shape=[-1, 4]), "'shape': expected dimensions"),
        (edit_module(shape=[2**62, 2**62]), "'shape': expected dimensions"),
        (edit_module(shape=[2**64, 1]), "'shape': expected an integer of 64 bits"),
        (edit_module(shape=[True, 4]), "'shape': expected an integer"),
        (edit_module(shape=[]), "'shape': expected a list"),
        (edit_module(more=1), "unknown field 'more'"),
    ],
)
def test_whatever_is_not_a_manifest_is_refused_by_field(change: Callable[[dict[str, Any]], None], words: str) -> None:
    value = json.loads(small_manifest().to_text())
    change(value)
    with pytest.raises(FormatError) as caught:
        Manifest.from_json(value, "m.safetensors")
    assert str(caught.value).startswith("m.safetensors: ")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_every_missing_field_is_named() -> None:
    for key in small_manifest().to_json():
        value = {name: item for name, item in small_manifest().to_json().items() if name != key}
        with pytest.raises(FormatError, match=f"lacks '{key}'"):
            Manifest.from_json(value, "f")


def test_an_edited_plan_does_not_match_its_digest() -> None:
    value = {**small_manifest().to_json(), "plan": Plan.of("nf3").to_json()}
    with pytest.raises(IntegrityError, match="recipe_digest"):
        Manifest.from_json(value, "f")


BAD_JSON = ["", "[]", "{", '{"format":NaN}', '{"format":1e400}', '{"format":1,"format":1}', "[" * 100_000, '{"a":"\\ud800"}']


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
def test_text_that_is_not_strict_json_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Manifest.from_text(text, "f")


def test_bombs_are_counted_before_they_are_built() -> None:
    for data in (b"[" + b"[]," * 200_000 + b"[]]", b"[" + b"1," * 200_000 + b"1]"):
        with pytest.raises(LimitError, match="expected at most"):
            bounded_json(data, "f", brackets=1000, commas=1000)
    assert bounded_json(b'{"a":[1,2]}', "f", brackets=2, commas=1) == {"a": [1, 2]}


def test_a_text_is_bounded_by_what_it_takes_in_memory() -> None:
    """One wide character makes Python hold all others as wide: refused before the text is made."""
    narrow, wide = b'"' + b"x" * 5_000_000 + b'"', '"{}\U0001f600"'.format("x" * 5_000_000).encode()
    assert len(bounded_json(narrow, "f", brackets=0, commas=0)) == 5_000_000
    for data in (wide, b'"' + b"x" * 5_000_000 + rb'\ud83d\ude00"'):
        with pytest.raises(LimitError, match="bytes of text in memory, got 2000"):
            bounded_json(data, "f", brackets=0, commas=0)


def test_shards_merge_to_the_whole_or_say_why_not() -> None:
    manifest = small_manifest()
    first, second = (manifest.part([name]) for name in manifest.modules)
    assert merge_manifests({"1": first, "2": second}) == manifest
    assert merge_manifests({"1": manifest}) == manifest
    with pytest.raises(FormatError, match="2 is not of the same model as 1"):
        merge_manifests({"1": first, "2": replace(second, seed=1)})
    with pytest.raises(FormatError, match="lies in 2 and in another shard"):
        merge_manifests({"1": first, "2": first})


def test_a_module_is_a_value() -> None:
    assert Module(Scheme.parse("nf4"), (3, 4)) == Module(Scheme.parse("nf4:g64"), (3, 4), "linear")
