"""Copies of checkpoints in which only some tensors' bytes differ."""
