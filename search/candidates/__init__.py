"""Where candidates come from: baselines, soups, gradients, the sampler."""
