"""Checkpoints: references, safetensors files and LoRA adapters."""
