"""The networks behind the files in this folder."""

import torch
from torch import Tensor, nn


class DigitNet(nn.Module):
    """Three convolutions and a small classifier for 8 x 8 digits, with four BatchNorm layers."""

    def __init__(self, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12, eps=eps, momentum=momentum)
        self.conv2 = nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(24, eps=eps, momentum=momentum)
        self.conv3 = nn.Conv2d(24, 24, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(24, eps=eps, momentum=momentum)
        self.fc1 = nn.Linear(24, 32, bias=False)
        self.bn4 = nn.BatchNorm1d(32, eps=eps, momentum=momentum)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)))
        x = x.mean(dim=(2, 3))
        x = torch.relu(self.bn4(self.fc1(x)))
        logits: Tensor = self.fc2(x)
        return logits


class PlainNet(DigitNet):
    """The same without BatchNorm; the convolutions and the linear layer get a bias instead."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 24, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(24, 24, 3, padding=1)
        self.fc1 = nn.Linear(24, 32)
        for name in ("bn1", "bn2", "bn3", "bn4"):
            setattr(self, name, nn.Identity())
