"""Candidates of several runs, models and logs beside each other: what they scored by item, and how they differ."""
