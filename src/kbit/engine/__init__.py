"""Inference without torch: a packed model becomes a plan, the plan a native step, and steps become text."""
