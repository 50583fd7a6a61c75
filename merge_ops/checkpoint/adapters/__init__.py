"""LoRA adapters in PEFT's format, applied to a checkpoint's tensors as they are read."""
