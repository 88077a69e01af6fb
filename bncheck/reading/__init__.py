"""From a file to named tensors, without executing anything that the file says."""
