"""Coverage-guided fuzzing of the readers: `make fuzz`, or `python -m tests.fuzz READER SECONDS`."""
