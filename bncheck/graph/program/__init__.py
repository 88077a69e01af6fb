"""torch.export programs as the graph; the only room below measuring that needs torch."""
