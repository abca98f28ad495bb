"""Rotations that cost nothing when the model runs: the model is changed into one that computes the same, with weights in a rotated basis.

    find      which tensors take part, read off the engine's description of an architecture
    choose    which of those folds the schemes of a model allow, or a packed model says it has
    changes   what becomes of one tensor, in float64
    turn      the transform

A matrix whose inputs come rotated from what makes them is encoded as ``folded`` where its scheme asked for ``rotate``.
"""
