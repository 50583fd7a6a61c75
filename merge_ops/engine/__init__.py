"""The engine: checkpoints and recipes in, merged models out, live or on disk."""
