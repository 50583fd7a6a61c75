"""Merged models on disk: weights, config, tokenizer and model card, written completely or not at all."""
