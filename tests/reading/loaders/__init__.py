"""Reader and loader against each other, on files that each format's loader takes.

A strategy draws files from what the loader accepts, not from what its writer writes; whatever
bncheck then reports is what the loader found, or the file is refused.
"""
