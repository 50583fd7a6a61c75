"""Recipes: mergekit's YAML, read, written, and resolved to a method and its numbers for every tensor."""
