"""Weights to weights: recipes, checkpoints, merge methods and the engine that builds candidates."""
