from kbit.engine.architectures import describe

from ..models import config_of


def test_positions_begin_at_two() -> None:
    position = describe(config_of("opt")).embedding.position
    assert position is not None
    assert (position.entries, position.offset) == (66, 2)


def test_a_last_norm_is_there_only_with_norms_before() -> None:
    config = config_of("opt")
    assert describe(config).head.norm is not None
    assert describe(config | {"_remove_final_layer_norm": True}).head.norm is None
    assert describe(config | {"do_layer_norm_before": False}).head.norm is None


def test_projections_are_there_only_for_narrow_embeddings() -> None:
    wide, narrow = describe(config_of("opt")), describe(config_of("opt_350m"))
    assert (wide.embedding.project, wide.head.dense) == (None, None)
    assert narrow.embedding.project is not None
    assert narrow.head.dense is not None
    assert narrow.head.matrix.cols == 20
