"""The graph of calls that a file lists, without torch."""
