"""``--threads``: one number for kbit's kernels and for torch."""

__all__ = ["use_threads"]


def use_threads(count: int) -> None:
    """Let kernels and torch use `count` threads; 0 leaves both as they are."""
    if not count:
        return
    import torch

    from kbit import native

    native.set_threads(count)
    torch.set_num_threads(count)
