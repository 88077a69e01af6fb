"""Folding BatchNorm into its neighbours: one graph, one planner, two formats."""
