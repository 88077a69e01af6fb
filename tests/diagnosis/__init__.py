"""Planted faults: how well the diagnosis names what was done to a network."""
