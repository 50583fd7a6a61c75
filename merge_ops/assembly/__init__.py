"""One recipe over open checkpoints: how each tensor of the result is made."""
