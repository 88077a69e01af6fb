"""Means that follow from affines and weights, through the graph."""
