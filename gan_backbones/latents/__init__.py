"""Latent spaces: sampling, interpolation, directions."""
