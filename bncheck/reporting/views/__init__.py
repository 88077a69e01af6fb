"""What each command's result looks like in every format: one file a command."""
