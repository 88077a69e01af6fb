"""Folding a module or a torch.export program (`.pt2`)."""
