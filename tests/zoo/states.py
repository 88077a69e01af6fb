"""What goes into the files: a small net, its tensors, and these as NumPy arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn

from tests.zoo.layout import Array, Layout, silent

State = dict[str, Tensor]

_SMALL_FLOATS = {
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
}


def numpy_of(tensor: Tensor) -> Array:
    """The same bits as a NumPy array; `Tensor.numpy` has no bfloat16 and no float8."""
    tensor = tensor.detach()
    if tensor.dtype not in _SMALL_FLOATS:
        return np.array(tensor.numpy())
    bits = tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.uint8)
    return np.array(bits.numpy().view(_SMALL_FLOATS[tensor.dtype]))


def arrays(state: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: numpy_of(tensor) for name, tensor in state.items()}


class Net(nn.Module):
    """Two BatchNorms with different settings, one of them a level deeper."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4, eps=1e-3, momentum=0.03)
        self.down = nn.Sequential(nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.relu(self.bn1(self.conv(x))))
        out: Tensor = self.head(y.mean((2, 3)))
        return out


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Statistics and weights that no default could be mistaken for."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.25)
            else:
                tensor.fill_(1000 + seed + len(name))


def net(seed: int = 0) -> Net:
    model = Net().eval()
    randomize(model, seed)
    return model


def state(seed: int = 0) -> State:
    return dict(net(seed).state_dict())


def prefixed(prefix: str, of: Mapping[str, Tensor]) -> State:
    return {prefix + name: tensor for name, tensor in of.items()}


def zipped(folder: Path, content: object, expected: State, **more: Any) -> Layout:
    """A file of torch.save with a state dict in it whose layers the file knows nothing of."""
    path = folder / "checkpoint.pt"
    torch.save(content, path)
    more.setdefault("layers", silent())
    return Layout(path, "torch-zip", arrays(expected), **more)


def statistics(seed: int = 0, channels: int = 4) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        "bn.weight": torch.rand(channels, generator=generator),
        "bn.bias": torch.rand(channels, generator=generator),
        "bn.running_mean": torch.rand(channels, generator=generator),
        "bn.running_var": torch.rand(channels, generator=generator) + 0.5,
    }


def trained() -> tuple[Net, dict[str, Any]]:
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer.state_dict()


def quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; its files live on
        return make()
