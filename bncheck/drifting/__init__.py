"""Several snapshots of one training -> how every layer's distribution moved."""
