"""The calls of a module in memory, by torch.fx: its forward runs on names instead of numbers.

For a model without data: torch.export needs inputs, whose sizes nobody has said. What depends on
numbers cannot be traced.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import fx, nn

from bncheck.graph.program.from_module import quiet
from bncheck.reading.listing import BETWEEN, ListedCall, Listing, Ref
from bncheck.reading.module_calls import module_call

#: What Python and torch.nn.functional call otherwise than aten does.
_NAMES: Final = {
    "iadd": "add_", "imul": "mul_", "isub": "sub_", "truediv": "div", "hardtanh_": "hardtanh_",
    "concat": "cat", "float": "alias", "contiguous": "contiguous",
}  # fmt: skip
_DROPOUTS: Final = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout")
#: Methods that take sizes or axes one by one as well as together.
_VARIADIC: Final = ("view", "reshape", "permute", "repeat", "flip", "expand")
_BILINEAR: Final = {"bilinear": "upsample_bilinear2d", "bicubic": "upsample_bicubic2d"}


def traced_listing(model: nn.Module) -> Listing:
    """The calls in the order in which they run. Raises whatever torch.fx or the model does."""
    with quiet("torch.fx"), torch.no_grad():
        graph = fx.Tracer().trace(model)
    return _Reader(model).listing(graph)


class _Reader:
    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.known: dict[fx.Node, Any] = {}
        self.calls: list[ListedCall] = []

    def listing(self, graph: fx.Graph) -> Listing:
        for node in graph.nodes:
            if node.op == "get_attr":
                self.known[node] = Ref(str(node.target))
                continue
            self.known[node] = Ref(f"{BETWEEN}{node.name}")
            call = self._call(node)
            if call is not None:
                self.calls.append(call)
        return Listing(tuple(self.calls))

    def _call(self, node: fx.Node) -> ListedCall | None:
        if node.op == "call_module":
            return self._module(node)
        if node.op not in ("call_function", "call_method"):
            return None
        if node.target is operator.getitem:
            self.known[node] = self._item(node)
            return None
        name = node.target if node.op == "call_method" else node.target.__name__  # type: ignore[union-attr]
        args, named = self._value(node.args), self._value(node.kwargs)
        return self._operator(node, str(name), args, named)

    def _operator(
        self, node: fx.Node, name: str, args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> ListedCall | None:
        named = dict(named)
        outputs: tuple[str, ...] = (self.known[node].name,)
        in_place = named.pop("inplace", False) is True
        if name in _DROPOUTS:  # in eval mode, whatever `training` says
            name, args, named = "alias", args[:1], {}
        elif name == "interpolate":
            name, named = _BILINEAR.get(str(named.get("mode")), ""), {}
        elif name == "batch_norm":  # statistics come first in torch.nn.functional
            return None
        elif name == "chunk":
            outputs = self._pieces(node, args, named)
        if name in _VARIADIC and len(args) > 2:
            args = (args[0], tuple(args[1:]))
        source = named.pop("input", None)
        args = args if source is None else (source, *args)
        name = _NAMES.get(name, name)
        suffix = "_" if in_place and not name.endswith("_") else ""
        return ListedCall(f"{name}{suffix}", args, outputs, named)

    def _pieces(
        self, node: fx.Node, args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[str, ...]:
        number = named.get("chunks", args[1] if args[1:] else None)
        names = tuple(f"{self.known[node].name}.{i}" for i in range(number if number else 1))
        self.known[node] = tuple(Ref(name) for name in names)
        return names

    def _module(self, node: fx.Node) -> ListedCall | None:
        path = str(node.target)
        module = self.modules[path]
        source = self._value(node.args[0]) if node.args else None
        plain = type(module).__module__.startswith("torch.nn.modules.")
        if not plain or not isinstance(source, Ref) or _is_hooked(module):
            return None
        return module_call(
            type(module).__name__,
            lambda name: getattr(module, name, None),
            _tensors(module, path),
            source,
            self.known[node].name,
        )

    def _item(self, node: fx.Node) -> Any:
        whole, index = self._value(node.args)
        if isinstance(whole, tuple) and isinstance(index, int) and index < len(whole):
            return whole[index]
        parts = index if isinstance(index, tuple) else (index,)
        if not isinstance(whole, Ref) or not all(isinstance(part, slice) for part in parts):
            return self.known[node]
        for axis, part in enumerate(parts):
            cut = ListedCall(
                "slice",
                (whole, axis, part.start, part.stop, part.step or 1),
                (f"{self.known[node].name}.{axis}",),
            )
            if part != slice(None):
                self.calls.append(cut)
                whole = Ref(cut.outputs[0])
        return whole

    def _value(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.known[value]
        if isinstance(value, (tuple, list)):
            return tuple(self._value(item) for item in value)
        if isinstance(value, dict):
            return {str(key): self._value(item) for key, item in value.items()}
        plain = isinstance(value, (bool, int, float, str, slice))
        return value if value is None or plain else "?"


def _tensors(module: nn.Module, path: str) -> Callable[[str], Ref | None]:
    held = {**dict(module.named_parameters(recurse=False)),
            **dict(module.named_buffers(recurse=False))}  # fmt: skip
    return lambda name: Ref(f"{path}.{name}") if held.get(name) is not None else None


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
