"""Merged models on disk: weights, config, tokenizer, model card; whole or not at all."""
