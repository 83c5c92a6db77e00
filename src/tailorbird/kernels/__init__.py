"""Arithmetic on packed weights; every kernel has a pure-PyTorch reference in `reference`."""
