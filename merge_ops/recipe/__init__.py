"""Recipes: mergekit's YAML, parsed, written, and resolved to a method and its parameters for every tensor."""
