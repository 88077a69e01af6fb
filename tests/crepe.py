"""The pitch tracker of Kim et al. 2018 in its smallest size, as ported from Keras to PyTorch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Crepe(nn.Module):
    """Six times convolution, ReLU, BatchNorm, max pooling over 1024 samples of sound."""

    def __init__(self) -> None:
        super().__init__()
        channels, sizes = [1, 128, 16, 16, 16, 32, 64], [512, 64, 64, 64, 64, 64]
        for i, size in enumerate(sizes, 1):
            stride = 4 if i == 1 else 1
            conv = nn.Conv2d(channels[i - 1], channels[i], (size, 1), (stride, 1))
            self.add_module(f"conv{i}", conv)
            self.add_module(f"conv{i}_BN", nn.BatchNorm2d(channels[i], eps=1e-3))
        self.classifier = nn.Linear(256, 360)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None, :, None]
        for i in range(1, 7):
            before, after = (254, 254) if i == 1 else (31, 32)
            x = F.pad(x, (0, 0, before, after))
            x = self.get_submodule(f"conv{i}_BN")(F.relu(self.get_submodule(f"conv{i}")(x)))
            x = F.max_pool2d(x, (2, 1), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).reshape(-1, 256)))
