"""Programs of torch.export."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.zoo.layout import NET_SETTINGS, Layout, Settings, layout
from tests.zoo.states import arrays, net, quietly, randomize, state


class Shared(nn.Module):
    """Tied weights, a norm without statistics, and one with tracked instance statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.second.weight = self.first.weight
        self.bn = nn.BatchNorm2d(3, eps=1e-3)
        self.untracked = nn.BatchNorm2d(3, track_running_stats=False)
        self.group = nn.GroupNorm(1, 3)
        self.register_buffer("table", torch.rand(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.first(x)) + self.untracked(self.second(x))
        out: Tensor = self.group(y)
        return out


def _export(model: nn.Module, path: Path, channels: int = 3) -> None:
    example = (torch.rand(2, channels, 5, 5),)
    quietly(lambda: torch.export.save(torch.export.export(model, example), path))


@layout
def exported_program(folder: Path) -> Layout:
    path = folder / "model.pt2"
    _export(net(), path)
    return Layout(path, "exported-program", arrays(state()), NET_SETTINGS)


@layout
def exported_program_shared(folder: Path) -> Layout:
    path = folder / "model.pt2"
    model = Shared().eval()
    randomize(model)
    _export(model, path)
    settings = {
        "bn": Settings(1e-3, 0.1, False, True),
        # Its flag says only that there are no running statistics to use.
        "untracked": Settings(1e-5, 0.1, None, True),
        "group": Settings(1e-5, None, None, False),
    }
    return Layout(path, "exported-program", arrays(model.state_dict()), settings)


@layout
def exported_program_training(folder: Path) -> Layout:
    path = folder / "model.pt2"
    _export(net().train(), path)
    settings = {k: Settings(v.eps, v.momentum, True, True) for k, v in NET_SETTINGS.items()}
    return Layout(path, "exported-program", arrays(state()), settings)


@layout
def exported_program_decomposed(folder: Path) -> Layout:
    path = folder / "model.pt2"

    def make() -> None:
        program = torch.export.export(net(), (torch.rand(2, 3, 5, 5),)).run_decompositions()
        torch.export.save(program, path)

    quietly(make)
    return Layout(path, "exported-program", arrays(state()), NET_SETTINGS)
