"""The table of torch's operators, by their names in aten; needs no torch."""
