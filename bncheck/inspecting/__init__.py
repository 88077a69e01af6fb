"""Are these statistics sound? From the file alone, and with a model and data."""
