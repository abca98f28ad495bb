"""How weights choose codes."""

from kbit.encode.nearest import NearestEncoder, Segment, encode

__all__ = ["NearestEncoder", "Segment", "encode"]
