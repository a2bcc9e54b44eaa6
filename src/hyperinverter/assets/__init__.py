"""Weights that ship with the package, their notices, and the conversion that made them."""
