"""Gradients of the merge coefficients: a start for the search, and learned soups."""
