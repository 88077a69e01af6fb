"""Which BatchNorm goes where, and why not: pure functions of a graph, for both formats."""
