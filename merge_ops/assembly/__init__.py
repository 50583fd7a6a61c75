"""Assembly of a result from a recipe and open checkpoints, tensor by tensor."""
