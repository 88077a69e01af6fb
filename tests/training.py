"""Small networks of any kind, trained on the digits in a second or two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.planted import digits


def train(
    model: nn.Module, inputs: Sequence[Tensor] | None = None, *, seed: int = 0, epochs: int = 6
) -> nn.Module:
    """The model in eval mode, trained to name the digits; `inputs` in the place of the images."""
    x, y = digits("train")
    inputs = [x] if inputs is None else inputs
    torch.manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    model.train()
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - epoch / epochs)
        for index in torch.split(torch.randperm(len(y)), 32):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(*(part[index] for part in inputs)), y[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()
