"""Racing: a candidate that is behind the incumbent beyond doubt stops early, at a promised error."""
