"""lm-eval tasks and groups on a live model, with the numbers of its command line."""
