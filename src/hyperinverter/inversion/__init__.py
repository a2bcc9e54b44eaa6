"""The method itself, usable without training."""
