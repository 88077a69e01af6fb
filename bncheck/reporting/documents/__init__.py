"""From a command's report to its Document: one file a command, `document` in each."""
