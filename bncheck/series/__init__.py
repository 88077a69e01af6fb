"""Several snapshots of one training as data: read, named, compared."""
