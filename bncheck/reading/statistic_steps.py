"""The steps by which code normalises by hand: what becomes of a statistic in a call of torch.

It is (x - mean) / sqrt(var + eps), or x * scale + (bias - mean * scale) with scale = weight /
sqrt(var + eps), in whatever order; all else is not understood.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from bncheck.reading.listing import ListedCall

#: The same numbers in another shape, dtype or place.
VIEWS: Final = frozenset(
    ("view", "reshape", "unsqueeze", "squeeze", "to", "expand", "expand_as", "type_as", "detach",
     "contiguous", "alias", "clone", "float", "double", "half", "reshape_as", "view_as", "flatten",
     "_unsafe_view", "cpu", "cuda")
)  # fmt: skip
#: Further calls whose result may share memory with what they are given, or hold it.
SHARES: Final = VIEWS | frozenset(
    ("transpose", "permute", "movedim", "select", "slice", "narrow", "split", "split_with_sizes",
     "chunk", "tensor_split", "hsplit", "vsplit", "dsplit", "unsafe_split",
     "unsafe_split_with_sizes", "unsafe_chunk", "unbind", "t", "numpy_T", "T", "mT", "H", "mH",
     "adjoint", "swapaxes", "swapdims", "moveaxis", "diagonal", "as_strided", "unfold",
     "unflatten", "ravel", "real", "imag", "view_as_real", "conj", "view_as_complex",
     "_reshape_alias", "_conj", "resolve_conj", "resolve_neg", "positive", "lift", "lift_fresh",
     "broadcast_to", "broadcast_tensors", "meshgrid", "atleast_1d", "atleast_2d", "atleast_3d",
     "values", "indices", "_values", "_indices", "data", "pin_memory", "to_dense", "dropout",
     "feature_dropout", "alpha_dropout", "type", "einsum", "index", "__getitem__", "list",
     "rename")
)  # fmt: skip
#: What tells no number of them, or makes a tensor of the same shape.
ASKS: Final = frozenset(
    ("size", "dim", "numel", "len", "dtype", "device", "is_cuda", "sym_size", "shape", "ndim",
     "__is__", "__isnot__", "format", "is_floating_point", "requires_grad", "zeros_like",
     "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
     "new_empty", "new_full", "eq", "ne", "lt", "gt", "le", "ge", "isnan", "isinf", "isfinite")
)  # fmt: skip
_END: Final = 1 << 30
_POWERS: Final = {0.5: "sqrt", -0.5: "rsqrt"}


class Is(Enum):
    """What a tensor is, as far as it is made of statistics."""

    MEAN = "the running mean"
    VAR = "the running variance, with or without eps"
    SQRT = "its root"
    RSQRT = "the reciprocal of that"
    SCALE = "that times a weight"
    SHIFT = "the mean times a scale"
    NEGATED = "the negative of the mean, or of a shift"
    CENTRED = "something less the mean"
    REST = "something that needs no further look"
    SHARED = "a tensor of another name in the same memory, or one that has no name"


#: A tensor that is normalised, or nearly so, may be changed as one likes.
HARMLESS: Final = (Is.CENTRED, Is.SCALE, Is.REST)


def step(
    operator: str, kinds: tuple[Is | None, Is | None], number: float | None, call: ListedCall
) -> Is | None:
    """What a call makes of its first two arguments, None being a tensor without statistics.

    `number` is the second where that is one. The result is None where it is not a known step.
    """
    if operator in ("add", "sub") and _alpha(call) != 1:
        return None
    if number is not None or len(call.args) == 1 or operator.startswith("clamp"):
        return _with_number(operator, kinds[0], number, call)
    return _STEPS.get((operator, *kinds))


def _with_number(
    operator: str, kind: Is | None, number: float | None, call: ListedCall
) -> Is | None:
    if kind is Is.VAR and operator in ("sqrt", "rsqrt"):
        return Is.SQRT if operator == "sqrt" else Is.RSQRT
    if kind is Is.VAR and operator == "pow" and number in _POWERS:
        return Is.SQRT if number > 0 else Is.RSQRT
    if kind is Is.SQRT and operator == "reciprocal":
        return Is.RSQRT
    if kind in (Is.MEAN, Is.SHIFT) and operator == "neg":
        return Is.NEGATED
    if kind in (Is.VAR, Is.SQRT) and operator == "add" and number is not None and number >= 0:
        return kind
    if kind in (Is.VAR, Is.SQRT) and operator in ("clamp", "clamp_min"):
        most = call.args[2] if len(call.args) > 2 else call.named.get("max")
        return kind if number is not None and number >= 0 and most is None else None
    return kind if number == 1 and operator in ("mul", "div") else None


#: What becomes of two tensors, None being one without statistics.
_STEPS: Final[dict[tuple[str, Is | None, Is | None], Is]] = {
    ("sub", None, Is.MEAN): Is.CENTRED,
    ("add", None, Is.NEGATED): Is.CENTRED,
    ("add", Is.NEGATED, None): Is.CENTRED,
    ("sub", None, Is.SHIFT): Is.REST,
    ("sub", Is.SCALE, Is.SHIFT): Is.REST,  # x * scale - mean * scale
    ("div", None, Is.SQRT): Is.SCALE,
    ("div", Is.CENTRED, Is.SQRT): Is.REST,
    ("mul", None, Is.RSQRT): Is.SCALE,
    ("mul", Is.RSQRT, None): Is.SCALE,
    ("mul", Is.CENTRED, Is.RSQRT): Is.REST,
    ("mul", Is.RSQRT, Is.CENTRED): Is.REST,
    ("mul", Is.MEAN, Is.SCALE): Is.SHIFT,
    ("mul", Is.SCALE, Is.MEAN): Is.SHIFT,
    ("mul", Is.MEAN, Is.RSQRT): Is.SHIFT,
    ("mul", Is.RSQRT, Is.MEAN): Is.SHIFT,
    ("div", Is.MEAN, Is.SQRT): Is.SHIFT,
    ("mul", Is.NEGATED, Is.SCALE): Is.NEGATED,
    ("mul", Is.SCALE, Is.NEGATED): Is.NEGATED,
}


def takes_root(operator: str, power: float | None) -> bool:
    """Whether a call takes the square root of something, or the reciprocal of that."""
    return operator in ("sqrt", "rsqrt") or (operator == "pow" and power in _POWERS)


def is_whole_slice(operator: str, args: tuple[Any, ...]) -> bool:
    """Whether a call takes all of an axis, as `x[:]` does."""
    start, end, step = (args[n] if len(args) > n else None for n in (2, 3, 4))
    whole = start in (None, 0) and (end is None or (isinstance(end, int) and end >= _END))
    return operator == "slice" and whole and step in (None, 1)


def _alpha(call: ListedCall) -> Any:
    return call.args[2] if len(call.args) > 2 else call.named.get("alpha", 1)
