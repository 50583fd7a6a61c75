"""What an evaluator is: items, options, the loaded model that it scores, values, and losses for gradients."""
