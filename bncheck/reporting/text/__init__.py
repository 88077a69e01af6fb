"""Reports for the person at the terminal: one file a command."""
