"""Whole trainings, sound and faulty: `python -m tests.recording.trials [WORD...]`.

Not part of the suite: minutes, and a table of what was said of each. Words choose by name.
"""
