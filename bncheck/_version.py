"""The version, as a constant: asking importlib.metadata costs 40 ms."""

__version__ = "0.1.0"
