import pytest

from kbit.core.errors import ModelError
from kbit.engine.architectures import describe

from ..models import config_of


def test_classes_are_counted_by_their_names() -> None:
    config = config_of("vit_classes")
    assert "num_labels" not in config
    for labels, count in (({"0": "a", "1": "b", "2": "c"}, 3), (None, 2)):
        matrix = describe(config | {"id2label": labels}).head.matrix
        assert matrix is not None
        assert matrix.rows == count


def test_positions_are_those_of_one_size() -> None:
    architecture = describe(config_of("vit"))
    assert (architecture.context, architecture.causal) == (10, False)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("patch_size", 5, "a divisor of an image's 12 pixels"), ("image_size", [12, 12], "an integer"), ("id2label", 5, "an object")],
)
def test_what_is_not_done_is_refused(key: str, value: object, expected: str) -> None:
    with pytest.raises(ModelError, match=f"vit: '{key}': expected {expected}"):
        describe(config_of("vit") | {key: value})
