"""Alignment: which axes of a model's tensors may be permuted together, and the permutations that fit another model."""
