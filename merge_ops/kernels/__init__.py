"""Plans for one tensor, and the kernels that carry them out: C, torch and Triton, with the same bits."""
