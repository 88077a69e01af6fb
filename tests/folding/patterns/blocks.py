# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="call-overload"
"""Blocks of well-known networks, written as their authors write them, that fold completely."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.folding.patterns.building import Pattern, randomised


def conv_bn(i: int, o: int, k: int | tuple[int, int] = 3, **options: object) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, bias=False, **options), nn.BatchNorm2d(o))


class RepVGG(nn.Module):
    """In training: 3 x 3, 1 x 1 and, where the shapes allow it, nothing but a BatchNorm."""

    def __init__(self, i: int, o: int, stride: int = 1) -> None:
        super().__init__()
        self.identity = nn.BatchNorm2d(i) if i == o and stride == 1 else None
        self.dense, self.point = (
            conv_bn(i, o, stride=stride, padding=1),
            conv_bn(i, o, 1, stride=stride),
        )

    def forward(self, x: Tensor) -> Tensor:
        rest = 0 if self.identity is None else self.identity(x)
        return F.relu(self.dense(x) + self.point(x) + rest)


class MobileOne(nn.Module):
    """In training: several 3 x 3 branches, one of 1 x 1, and a BatchNorm, added up in place."""

    def __init__(self, c: int, groups: int = 1) -> None:
        super().__init__()
        self.skip, self.scale = nn.BatchNorm2d(c), conv_bn(c, c, 1, groups=groups)
        self.branches = nn.ModuleList(conv_bn(c, c, padding=1, groups=groups) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        out = self.scale(x) + self.skip(x)
        for branch in self.branches:
            out += branch(x)
        return F.relu(out)


class ACNet(nn.Module):
    """A square kernel beside a tall and a wide one."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.square = conv_bn(i, o, padding=1)
        self.tall, self.wide = (
            conv_bn(i, o, (3, 1), padding=(1, 0)),
            conv_bn(i, o, (1, 3), padding=(0, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.square(x) + self.tall(x) + self.wide(x)


class LeViT(nn.Module):
    """A linear layer and a BatchNorm over its features, the tokens among the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bn = nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return self.bn(y.flatten(0, 1)).reshape_as(y)


class Heads(nn.Module):
    """EfficientDet's: convolutions shared among levels, each with a BatchNorm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2)) for _ in range(3)
        )
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for level, norms in enumerate(self.norms):
            y = F.avg_pool2d(x, 2**level)
            for conv, norm in zip(self.convs, norms, strict=True):
                y = F.silu(norm(conv(y)))
            found.append(self.last(y))
        return found


class Res2Net(nn.Module):
    """Channels in four parts, each of which sees the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv_bn(4, 8, 1), conv_bn(8, 4, 1)
        self.middle = nn.ModuleList(conv_bn(2, 2, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(F.relu(self.first(x)), 2, 1)
        done = [parts[3]]
        for part, conv in zip(parts, self.middle, strict=False):
            done.append(F.relu(conv(part + done[-1])))
        return F.relu(x + self.last(torch.cat(done[1:] + done[:1], 1)))


class Shuffle(nn.Module):
    """ShuffleNet v2: one half as it is, and the channels of both mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.right = nn.Sequential(
            conv_bn(4, 4, 1),
            nn.ReLU(inplace=True),
            conv_bn(4, 4, padding=1, groups=4),
            conv_bn(4, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        y = torch.cat((left, self.right(right)), 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w)


class CSP(nn.Module):
    """YOLOv5's: one BatchNorm over two branches that are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(4, 4, padding=1), nn.SiLU(), nn.Conv2d(4, 4, 1, bias=False)
        )
        self.shortcut, self.bn = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(8)
        self.last = conv_bn(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.body(x), self.shortcut(x)], 1)
        return self.last(F.leaky_relu(self.bn(joined), 0.1))


class PointNet(nn.Module):
    """A transform that is added to the identity, which is made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Sequential(
            nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 9, 1), nn.BatchNorm1d(9)
        )
        self.head = nn.Sequential(nn.Linear(9, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 9))

    def forward(self, x: Tensor) -> Tensor:
        largest = torch.max(self.points(x), 2)[0].view(-1, 9)
        turn = self.head(largest) + torch.eye(3).view(1, 9).repeat(x.size(0), 1)
        return torch.bmm(x.transpose(2, 1), turn.view(-1, 3, 3))


class Conformer(nn.Module):
    """The convolution module: pointwise, GLU, depthwise, BatchNorm, Swish, pointwise."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.before, self.inner = nn.LayerNorm(width), nn.Conv1d(width, 2 * width, 1)
        self.deep = nn.Conv1d(width, width, 5, padding=2, groups=width)
        self.bn, self.outer = nn.BatchNorm1d(width), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.inner(self.before(x).transpose(1, 2)), 1)
        return x + self.outer(F.silu(self.bn(self.deep(y)))).transpose(1, 2)


class Video(nn.Module):
    """Frames among the samples for the convolution, a BatchNorm over time and place behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm3d(4)

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        y = self.conv(x.reshape(n * t, *x.shape[2:]))
        return self.bn(y.view(n, t, *y.shape[1:]).transpose(1, 2))


class UNet(nn.Module):
    """A skip that is padded to fit and joined to what a transposed convolution makes larger."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep = conv_bn(3, 4, padding=1), conv_bn(4, 8, padding=1)
        self.up, self.last = nn.ConvTranspose2d(8, 8, 2, stride=2), conv_bn(12, 4, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.first(x))
        y = self.up(F.relu(self.deep(F.max_pool2d(skip, 2))))
        missing = skip.size(3) - y.size(3)
        y = F.pad(y, [missing // 2, missing - missing // 2] * 2)
        return self.last(torch.cat([skip, y], 1))


def _made(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: randomised(build())


_SMALL = (4, 8, 8)

BLOCKS: dict[str, Pattern] = {
    "repvgg_net": Pattern(_made(lambda: nn.Sequential(RepVGG(3, 4, 2), RepVGG(4, 4)))),
    "mobileone": Pattern(_made(lambda: nn.Sequential(MobileOne(4), MobileOne(4, 4))), _SMALL),
    "acnet": Pattern(_made(lambda: ACNet(3, 4))),
    "levit": Pattern(_made(LeViT), (7, 5)),
    "efficientdet_heads": Pattern(_made(Heads), _SMALL),
    "res2net": Pattern(_made(Res2Net), _SMALL),
    "shufflenet": Pattern(_made(lambda: nn.Sequential(Shuffle(), Shuffle())), (8, 6, 6)),
    "csp": Pattern(_made(CSP), _SMALL),
    "pointnet": Pattern(_made(PointNet), (3, 20)),
    "conformer": Pattern(_made(Conformer), (11, 6)),
    "video": Pattern(_made(Video), (4, 3, 8, 8)),
    "unet": Pattern(_made(UNet), (3, 9, 9)),
}
