"""Weights that ship with the package, and their notices."""
