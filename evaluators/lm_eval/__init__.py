"""lm-eval's tasks and groups on a model in memory, with the numbers of lm-eval's command line."""
