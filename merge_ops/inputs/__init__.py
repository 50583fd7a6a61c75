"""Checkpoints made alike: one set of names, one vocabulary, and where their tensors are kept."""
