"""Six convolutions for 8 x 8 digits, with BatchNorm or without."""

import torch
from torch import Tensor, nn

WIDTHS = (16, 16, 32, 32, 64, 64)
STRIDES = (1, 1, 2, 1, 2, 1)


class SixConv(nn.Module):
    """Convolution, BatchNorm or not, activation, six times; then the mean, and a linear layer."""

    def __init__(self, bn: bool = True, sigmoid: bool = False, he: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for out, stride in zip(WIDTHS, STRIDES, strict=True):
            layers.append(nn.Conv2d(width, out, 3, stride, padding=1, bias=not bn))
            layers += [nn.BatchNorm2d(out)] * bn
            layers.append(nn.Sigmoid() if sigmoid else nn.ReLU())
            width = out
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, 10)
        if he:
            self._he()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits

    @torch.no_grad()
    def _he(self) -> None:
        """He et al. 2015; torch's own default is meant for layers that are narrower."""
        for module in self.body:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    module.bias.zero_()


def plain() -> SixConv:
    """For --model: the network without BatchNorm."""
    return SixConv(bn=False)


def normalised() -> SixConv:
    """For --model: the network with BatchNorm."""
    return SixConv()
