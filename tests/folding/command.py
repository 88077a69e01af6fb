"""What the tests of `bncheck fold` run it on: the sample models, and models that users write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SAMPLES = Path(__file__).parent.parent.parent / "sample_models"


DATA = ["--data", str(SAMPLES / "digits-test.npz")]


SMALL = ["--input", "1,8,8"]


MODEL = ["--model", f"{SAMPLES / 'nets.py'}:DigitNet", "--input", "1,8,8"]


USER = """
import sys
sys.path.insert(0, SAMPLES)
import torch
from nets import DigitNet

class Branches(DigitNet):
    def forward(self, x):
        y = self.bn1(self.conv1(x))
        if y.sum() > 0:
            return y
        return -y

class Exits(DigitNet):
    def forward(self, x):
        sys.exit(0)

class Keyword(DigitNet):
    def forward(self, x, *, scale):
        return super().forward(x * scale)

class Other(DigitNet):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
""".replace("SAMPLES", repr(str(SAMPLES)))


SHAPES = """
import torch
from torch import nn

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.bn = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.bn2 = nn.BatchNorm1d(3)

class Fixed(Base):
    def forward(self, x):
        return self.bn(self.fc(x)).view(2, 3)

class Twice(Base):
    def forward(self, x):
        return self.bn2(self.fc(torch.relu(self.bn(self.fc(x)))))

class TwiceAndOnce(Twice):
    def __init__(self):
        super().__init__()
        self.last, self.bn3 = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.bn2.eps = 0.5
    def forward(self, x):
        return self.bn3(self.last(torch.relu(super().forward(x))))

class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernels, self.routing = nn.Parameter(torch.randn(2, 9)), nn.Linear(3, 2)
    def forward(self, x):
        weight = self.routing(x.mean(0)).sigmoid() @ self.kernels
        return nn.functional.linear(x, weight.view(3, 3))

class Mixed(Base):
    def __init__(self):
        super().__init__()
        self.mixture = Mixture()
        nn.init.normal_(self.bn.bias)
    def forward(self, x):
        return self.bn2(self.fc(torch.relu(self.bn(self.mixture(x)))))

class Branches(Base):
    def forward(self, x):
        y = self.fc(x)
        return y, self.bn(y), self.bn2(y)

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
    def forward(self, x):
        return self.fc(x)
"""


def shaped(tmp_path: Path, name: str, ending: str = "pt2") -> list[str]:
    """The words of a command that folds one of the classes above."""
    (tmp_path / "shapes.py").write_text(SHAPES)
    namespace: dict[str, Any] = {}
    exec(SHAPES, namespace)
    torch.save(namespace[name]().state_dict(), tmp_path / "net.pt")
    model = ["--model", f"{tmp_path / 'shapes.py'}:{name}", "--input", "3"]
    return ["fold", str(tmp_path / "net.pt"), *model, "-o", str(tmp_path / f"out.{ending}")]
