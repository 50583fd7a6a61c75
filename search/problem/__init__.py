"""A config made ready to run: tasks, objective, checks."""
