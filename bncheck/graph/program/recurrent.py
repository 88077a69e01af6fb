"""LSTM, GRU and plain recurrent layers: the first layer takes its input through a product alone.

The parameters of a layer and direction are W_ih, W_hh, b_ih, b_hh, and W_hr where there is a
projection: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from bncheck.graph.program.calls import Arguments, operator_name

_NAMES = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")


@dataclass(frozen=True)
class Recurrence:
    """What such a call reads: its input, and where W_ih and b_ih of each direction stand.

    `names` are the arguments that the parameters are, where they are not one list.
    """

    source: Node
    parameters: tuple[Node, ...]
    weights: tuple[int, ...]
    biases: tuple[int, ...]
    names: tuple[str, ...] = ()


def recurrence(node: Node) -> Recurrence | None:
    """The parts of a recurrent call; None for any other."""
    call = Arguments(node)
    if operator_name(node) in _CELLS:
        names = ("w_ih", "b_ih") if call("b_ih") is not None else ("w_ih",)
        parameters = tuple(call(name) for name in names)
        return Recurrence(call("input"), parameters, (0,), (1,) if len(names) > 1 else (), names)
    if operator_name(node) not in _NAMES:
        return None
    source, parameters = call.first("input", "data"), call("params")
    directions = 2 if call("bidirectional") else 1
    number = len(parameters) // (directions * call("num_layers"))
    firsts = tuple(number * direction for direction in range(directions))
    biases = tuple(first + 2 for first in firsts) if call("has_biases") else ()
    return Recurrence(source, tuple(parameters), firsts, biases)
