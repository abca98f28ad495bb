"""How weights choose codes."""

from kbit.encoders.nearest import NearestEncoder, Segment, encode

__all__ = ["NearestEncoder", "Segment", "encode"]
