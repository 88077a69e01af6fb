"""The loss around the weights of a snapshot: how smooth it is, and what rates it stands."""
