"""From a plan to launches of kernels."""
