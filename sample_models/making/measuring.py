"""What a network is worth, and what it would be with statistics measured anew."""

import copy

import torch
from nets import DigitNet
from torch import nn

from making.digits import Digits


def norms_of(net: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


@torch.no_grad()
def accuracy(net: nn.Module, digits: Digits) -> float:
    predicted = net.eval()(digits.test_x).argmax(dim=1)
    return float((predicted == digits.test_y).double().mean())


@torch.no_grad()
def recalibrated(net: DigitNet, digits: Digits) -> DigitNet:
    """A copy whose statistics are those of the training images, taken as one batch."""
    net = copy.deepcopy(net)
    for norm in norms_of(net):
        norm.reset_running_stats()
        norm.momentum = 1.0
    net.train()(digits.train_x)
    return net.eval()
