"""What an evaluator is: items, scores, values, the live model that it is given."""
