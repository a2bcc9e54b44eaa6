"""Modules with parameters; none knows about training."""
