import pickle
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.core.errors import SchemeError
from kbit.core.registry import Registry, suggest


@pytest.fixture
def registry():
    registry = Registry("grid")
    registry.register("nf")(1)
    registry.register("float")(2)
    return registry


def test_suggest_names_the_close_words_or_all():
    assert suggest("flaot", ["nf", "float", "int"]) == "did you mean 'float'?"
    assert suggest("quantize", ["quantile", "quantise", "nf"]) == "did you mean 'quantise' or 'quantile'?"
    assert suggest("xyz", ["nf", "int"]) == "known: int, nf"
    assert suggest("xyz", []) == "none is known"
    assert suggest("", ["nf"]) == "known: nf"


@settings(deadline=None, max_examples=50)
@given(st.text(), st.lists(st.text(), unique=True, max_size=6))
def test_suggest_answers_any_word_with_known_words(word, known):
    answer = suggest(word, iter(known))
    assert answer.startswith(("did you mean ", "known: ")) if known else answer == "none is known"
    if word and word in known:
        assert answer.startswith(f"did you mean {word!r}")


def test_a_registry_is_a_mapping_in_order_of_registration(registry):
    assert isinstance(registry, Mapping)
    assert (dict(registry), len(registry), list(registry)) == ({"nf": 1, "float": 2}, 2, ["nf", "float"])
    assert "nf" in registry
    assert "int" not in registry
    assert ["nf"] not in registry  # what cannot be hashed is not in it either


def test_register_is_a_decorator_that_gives_back_what_it_took():
    registry = Registry("verb")

    @registry.register("run")
    def run():
        return "ran"

    assert registry["run"] is run
    assert run() == "ran"


def test_a_name_is_taken_once(registry):
    with pytest.raises(SchemeError, match=r"^grid 'nf' is already registered$"):
        registry.register("nf")(3)
    assert registry["nf"] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flot", "unknown grid 'flot': did you mean 'float'?"),
        ("zz", "unknown grid 'zz': known: float, nf"),
        (4, "unknown grid 4: known: float, nf"),
        (["nf"], "unknown grid ['nf']: did you mean 'nf'?"),
    ],
)
def test_an_unknown_name_is_answered(registry, name, message):
    with pytest.raises(SchemeError) as caught:
        registry[name]
    assert str(caught.value) == message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_get_answers_with_its_default(registry):
    assert registry.get("nf") == 1
    assert registry.get("zz") is None
    assert registry.get("zz", 7) == 7
