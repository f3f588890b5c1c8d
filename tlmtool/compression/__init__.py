"""Compression: input statistics, ranks, the swap itself, and kernels for attention."""
