"""What torch.nn's own modules call, and in which order a Sequential calls them.

Of a pickled module the file holds no code. But a class of torch.nn does what it says, and a
Sequential calls what it holds one after the other: that much is certain, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bncheck.core.limits import MAX_DEPTH
from bncheck.reading.listing import BETWEEN, ListedCall, Listing, Ref
from bncheck.reading.nodes import attributes, by_name, entries, registered
from bncheck.reading.pickle_values import Global, Node, Value
from bncheck.reading.torch_objects import TorchObjects

_AFFINE: Final = ("weight", "bias")
_MOST_AXES: Final = 8


@dataclass(frozen=True, slots=True)
class _Class:
    """An operator with the tensors that follow its input, and with settings by their names.

    A setting is the module's attribute of that name, or a value that is `fixed`.
    """

    operator: str
    tensors: tuple[str, ...] = ()
    settings: str = ""
    fixed: Mapping[str, Any] | None = None


def _of_each_rank(name: str, operator: str, *rest: Any) -> dict[str, _Class]:
    return {f"{name}{n}d": _Class(f"{operator}{n}d", *rest) for n in (1, 2, 3)}


_CONV: Final = "stride padding dilation groups"
_POOL: Final = "kernel_size stride padding ceil_mode"
_NORM: Final = _Class(
    "batch_norm", (*_AFFINE, "running_mean", "running_var"), "eps",
    {"training": False, "momentum": 0.1},
)  # fmt: skip
_DROPOUT: Final = _Class("dropout", fixed={"p": 0.5, "train": False})
CLASSES: Final[Mapping[str, _Class]] = {
    **_of_each_rank("Conv", "conv", _AFFINE, _CONV),
    **_of_each_rank("ConvTranspose", "conv_transpose", _AFFINE, f"{_CONV} output_padding"),
    "Linear": _Class("linear", _AFFINE),
    **{f"BatchNorm{n}d": _NORM for n in (1, 2, 3)},
    "SyncBatchNorm": _NORM,
    "Identity": _Class("alias"),
    **dict.fromkeys(
        ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"),
        _DROPOUT,
    ),
    "ReLU": _Class("relu"),
    "ReLU6": _Class("relu6"),
    "LeakyReLU": _Class("leaky_relu", settings="negative_slope"),
    "PReLU": _Class("prelu", ("weight",)),
    "ELU": _Class("elu", settings="alpha"),
    "Hardtanh": _Class("hardtanh", settings="min_val max_val"),
    "Softplus": _Class("softplus", settings="beta"),
    **{
        name: _Class(name.lower())
        for name in (
            "SELU", "GELU", "SiLU", "Mish", "Hardswish", "Hardsigmoid", "Sigmoid", "Tanh"
        )
    },
    **_of_each_rank("MaxPool", "max_pool", (), _POOL),
    **_of_each_rank("AvgPool", "avg_pool", (), f"{_POOL} count_include_pad"),
    **_of_each_rank("AdaptiveAvgPool", "adaptive_avg_pool", (), "output_size"),
    **_of_each_rank("AdaptiveMaxPool", "adaptive_max_pool", (), "output_size"),
    "Flatten": _Class("flatten", settings="start_dim end_dim"),
    "PixelShuffle": _Class("pixel_shuffle", settings="upscale_factor"),
}  # fmt: skip


def module_call(
    class_name: str,
    read: Callable[[str], Any],
    tensor: Callable[[str], Ref | None],
    source: Ref,
    output: str,
) -> ListedCall | None:
    """What a module of torch.nn calls, None for a class that is not described.

    `read` gives an attribute, and `tensor` a parameter or buffer where the module has it.
    """
    known = CLASSES.get(class_name)
    if known is None:
        return None
    in_place = read("inplace") is True and known.operator in ("relu", "leaky_relu", "relu6")
    settings = {name: read(name) for name in known.settings.split()}
    named = {
        **{name: tensor(name) for name in known.tensors},
        **{name: value for name, value in settings.items() if value is not None},
        **(known.fixed or {}),
    }
    args = (source, *(tensor(name) for name in known.tensors))
    return ListedCall(f"{known.operator}_" if in_place else known.operator, args, (output,), named)


def listed_sequences(root: Value, objects: TorchObjects) -> Listing:
    """The calls in all Sequentials of a pickled module, each of which begins anew."""
    walk = _Walk(objects)
    walk.module(root, "", None, 0)
    return Listing(tuple(walk.calls))


class _Walk:
    def __init__(self, objects: TorchObjects) -> None:
        self.objects = objects
        self.calls: list[ListedCall] = []
        self.number = 0

    def _new(self) -> str:
        self.number += 1
        return f"{BETWEEN}{self.number}"

    def module(self, value: Value, prefix: str, source: Ref | None, depth: int) -> Ref:
        """Take in a module that is called with `source`, or nobody knows with what."""
        given, own = source or Ref(self._new()), attributes(value)
        children = by_name(own.get("_modules"))
        kind = _kind(value)
        unknown = Ref(self._new())
        if depth > MAX_DEPTH or not kind or any(entries(own.get(h)) for h in _HOOKS):
            kind = ""
        if kind == "Sequential":
            for name, child in children.items():
                given = self.module(child, f"{prefix}{name}.", given, depth + 1)
            return given
        for name, child in children.items():
            if depth <= MAX_DEPTH:
                self.module(child, f"{prefix}{name}.", None, depth + 1)
        call = module_call(
            kind, lambda name: _plain(own.get(name)), self._tensors(own, prefix), given, self._new()
        )
        if call is None or children:
            return unknown
        self.calls.append(call)
        return Ref(call.outputs[0])

    def _tensors(self, own: Mapping[str, Value], prefix: str) -> Callable[[str], Ref | None]:
        found = registered(own)

        def tensor(name: str) -> Ref | None:
            there = self.objects.tensor(found.get(name)) is not None
            return Ref(f"{prefix}{name}") if there else None

        return tensor


_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks")


def _kind(value: Value) -> str:
    """The name of a class of torch.nn itself; "" for anybody else's."""
    function = value.function if isinstance(value, Node) else None
    if isinstance(value, Node) and isinstance(function, Global):
        if function.name in ("_reconstructor", "__newobj__"):
            function = value.args[0] if value.args else None
        if isinstance(function, Global) and function.module.startswith("torch.nn.modules."):
            return function.name
    return ""


def _plain(value: Value) -> Any:
    """A number, a text, or as many as a tensor has axes; None for anything else."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_single, value)) if len(value) <= _MOST_AXES else None
    return _single(value)


def _single(value: Value) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else None
