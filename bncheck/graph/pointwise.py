"""The elementwise functions that are not rectifiers, in NumPy: what a Pointwise computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from bncheck.graph.dataflow import Floats

_ROOT = float(np.sqrt(2 / np.pi))


def _erf(x: Floats) -> Floats:
    """To 5e-4: the tanh form of GELU, https://arxiv.org/abs/1606.08415, section 2."""
    y = np.sqrt(2.0) * x
    return np.asarray(np.tanh(_ROOT * (y + 0.044715 * y**3)))


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _softplus(x: Floats, beta: float = 1.0) -> Floats:
    return np.logaddexp(0.0, beta * x) / beta


def _clip(x: Floats, low: float, high: float) -> Floats:
    return np.clip(x, low, high)


def _elu(x: Floats, alpha: float = 1.0, scale: float = 1.0) -> Floats:
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _hardsigmoid(x: Floats, slope: float = 1 / 6, offset: float = 0.5) -> Floats:
    return np.clip(slope * x + offset, 0.0, 1.0)


#: By the names of Pointwise. The settings are the arguments after x.
FUNCTIONS: Final[Mapping[str, Callable[..., Floats]]] = {
    "clip": _clip,
    "elu": _elu,
    "erf": _erf,
    "exp": lambda x: np.exp(np.minimum(x, 50.0)),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / np.sqrt(2.0))),
    "hardsigmoid": _hardsigmoid,
    "hardswish": lambda x: x * _hardsigmoid(x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "selu": lambda x: _elu(x, 1.6732632423543772, 1.0507009873554805),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "softplus": _softplus,
    "tanh": np.tanh,
}
