"""Rules about several snapshots: one file each."""
