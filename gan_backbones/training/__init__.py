"""Training of generators, discriminators, classifiers and judges."""
