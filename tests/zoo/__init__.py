"""Every layout in which people keep BatchNorm statistics, a file each container.

A layout is a function that writes it into an empty folder and returns what a reader must find
there. The expected numbers come from the tensors in memory, never from a reader.
"""
