"""A candidate to per-item scores: built, scored in full or raced, within a token budget."""
