"""Checkpoints prepared for merging: one set of tensor names, one vocabulary, and memory for their tensors."""
