"""Kernels: a plan and the input tensors in, the merged tensor out, with the same bits by every backend."""
