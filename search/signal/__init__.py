"""The signal: what the search is told of its candidates, which is the metric itself or a smoother number beside it."""
