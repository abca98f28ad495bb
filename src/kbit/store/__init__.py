"""Models on disk: sealed safetensors containers, read without trust and written so that a kill costs nothing."""
