"""Tensor names -> normalisation layers, and what their numbers say by themselves."""
