"""HyperInverter: StyleGAN inversion in two phases, as an experiment framework."""
