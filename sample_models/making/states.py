"""State dicts of the network."""

import copy
from collections.abc import Mapping
from typing import Any

from nets import DigitNet
from torch import Tensor, nn

State = dict[str, Tensor]


def state_of(net: nn.Module) -> State:
    return copy.deepcopy(net.state_dict())


def net_with(state: Mapping[str, Tensor]) -> DigitNet:
    net = DigitNet()
    net.load_state_dict(state)
    return net.eval()


def buffers_of(state: State) -> State:
    """The BatchNorm buffers in a state: running_mean, running_var and num_batches_tracked."""
    weights = {name for name, _ in DigitNet().named_parameters()}
    return {name: tensor for name, tensor in state.items() if name not in weights}


def checkpoint(net: nn.Module) -> dict[str, Any]:
    return {"state_dict": state_of(net)}
