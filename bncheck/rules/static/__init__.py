"""Rules about one file, each a pure function of the layers in it."""
