"""What the normalisation layers of a model see when data flow through it."""
