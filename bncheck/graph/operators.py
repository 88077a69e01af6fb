"""The operators without settings that matter, by their names in torch and in ONNX.

To teach bncheck an operator that commutes with a per-channel map, add one line:

- here, to `_ALIKE`, where what it does depends on none of its settings;
- to the table at the end of a module of aten/ (torch) or onnx/ where it does, with a function
  that reads the settings from the call. What both formats have is built by `axes`, `convolutions`
  and `products`.

An operation of a new kind (a class in specs.py) needs a rule for the planner, too:
folding/planner/passing.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bncheck.graph.specs import (
    Expand,
    Identity,
    Larger,
    Mul,
    Pointwise,
    Rectifier,
    Reshape,
    ShapeOf,
    Spec,
)


class UndescribedError(Exception):
    """A setting of an operator is not a number that is known: the call is opaque."""


class _Alike(NamedTuple):
    """An operator by its names. `inputs`: how many of its arguments are data, in torch."""

    spec: Callable[[str], Spec]
    torch: str
    onnx: str
    inputs: int = 1


def _is(spec: Spec) -> Callable[[str], Spec]:
    return lambda _: spec


def _rectifier(negative: float | None) -> Callable[[str], Spec]:
    return lambda name: Rectifier(name, negative)


_ALIKE = (
    _Alike(
        _is(Identity()),
        "alias clone contiguous detach detach_ lift_fresh lift_fresh_copy positive",
        "Identity",
    ),
    _Alike(
        _is(Reshape()),
        "reshape flatten unflatten squeeze unsqueeze _unsafe_view _reshape_copy squeeze_copy "
        "unsqueeze_copy ravel view_as reshape_as",
        "Reshape Flatten Squeeze Unsqueeze",
    ),
    _Alike(_is(Expand()), "expand expand_copy broadcast_to expand_as", ""),
    _Alike(
        _is(ShapeOf()),
        "sym_size sym_numel sym_stride _assert_tensor_metadata numel dim zeros_like ones_like "
        "full_like new_zeros new_ones new_full",
        "Shape Size",
    ),
    _Alike(_is(Mul()), "mul multiply", "Mul", 2),
    _Alike(_is(Larger()), "maximum minimum fmax fmin", "", 2),
    _Alike(Rectifier, "relu", "Relu"),
    _Alike(_rectifier(-1.0), "abs", "Abs"),
    _Alike(_rectifier(None), "prelu", "PRelu"),
    *(
        _Alike(_is(Pointwise(name)), torch, onnx)
        for name, torch, onnx in (
            ("erf", "erf", "Erf"),
            ("exp", "exp", "Exp"),
            ("gelu", "gelu", "Gelu"),
            ("hardswish", "hardswish", "HardSwish"),
            ("mish", "mish", "Mish"),
            ("selu", "selu", ""),
            ("sigmoid", "sigmoid", "Sigmoid"),
            ("silu", "silu", ""),
            ("softplus", "", "Softplus"),
            ("tanh", "tanh", "Tanh"),
        )
    ),
)


class Alike(NamedTuple):
    """What an operator is, and how many of its arguments are data, in torch."""

    spec: Spec
    inputs: int


TORCH = {n: Alike(known.spec(n), known.inputs) for known in _ALIKE for n in known.torch.split()}
ONNX = {n: Alike(known.spec(n), known.inputs) for known in _ALIKE for n in known.onnx.split()}
