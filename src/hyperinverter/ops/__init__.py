"""Tensor arithmetic without parameters."""
