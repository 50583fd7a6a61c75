"""Where candidates come from: baselines, soups, usual settings, gradients, the sampler."""
