"""Live models: transformers' models whose parameters are accessed by the checkpoint's tensor names."""
