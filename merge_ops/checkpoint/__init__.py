"""Checkpoints on disk: references, safetensors files, LoRA adapters."""
