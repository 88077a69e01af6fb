"""Rules about what the layers see in the user's data: one file each."""
