"""Lossless coding of k-bit codes."""
