"""A model in memory to log-probabilities, generated texts, hidden states and losses, in batches."""
