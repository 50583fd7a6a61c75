"""The loop: ask, score, tell; recovery after kills; callbacks."""
