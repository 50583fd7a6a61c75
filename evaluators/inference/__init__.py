"""A live model to log-probabilities, texts, embeddings and losses: batched, with shared prefixes."""
