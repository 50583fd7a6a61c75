"""Statistics of tensors and models, computed once, so that each candidate costs one pass over memory."""
