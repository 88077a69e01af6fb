"""`gate`: every declared model through every check that it wants, one report out."""
