"""What is computed once per tensor or per model, so that a candidate costs one pass over memory."""
