"""A torch.export program as the planner's graph.

Values have the names of their nodes. Whatever is computed from parameters and buffers alone, such
as a weight under weight_norm, is a constant; its numbers are computed in float64 when asked for.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from bncheck.folding.dataflow import (
    Add,
    Average,
    Concat,
    Conv,
    ConvTranspose,
    Enclosed,
    Expand,
    Flip,
    Floats,
    Graph,
    Identity,
    Linear,
    Maximum,
    Mul,
    Norm,
    Op,
    Opaque,
    Pad,
    PixelShuffle,
    Rectifier,
    Reshape,
    Shape,
    ShapeOf,
    Spec,
    Split,
    Transpose,
    Value,
)

if TYPE_CHECKING:
    from torch.export import ExportedProgram

#: A call seen as the planner sees it: what it does, and which arguments are its inputs.
Described = tuple[Spec, tuple[Any, ...]]

_FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_IDENTITIES = {
    "alias", "clone", "contiguous", "detach", "detach_", "lift_fresh", "lift_fresh_copy",
    "positive",
}  # fmt: skip
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
_RESHAPES = {
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "view_copy",
    "_reshape_copy", "squeeze_copy", "unsqueeze_copy", "ravel", "view_as", "reshape_as",
}  # fmt: skip
_SHAPE_ONLY = {
    "sym_size", "sym_numel", "sym_stride", "_assert_tensor_metadata", "numel", "dim",
}  # fmt: skip
_AVERAGES = {"adaptive_avg_pool1d": 1, "adaptive_avg_pool2d": 2, "adaptive_avg_pool3d": 3,
             "_adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3}  # fmt: skip
_RESIZES = {
    "upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_nearest3d": 3,
    "_upsample_nearest_exact1d": 1, "_upsample_nearest_exact2d": 2, "_upsample_nearest_exact3d": 3,
    "upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_trilinear3d": 3,
    "upsample_bicubic2d": 2,
}  # fmt: skip
_MAXIMA = {"max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3, "max_pool2d_with_indices": 2,
           "max_pool3d_with_indices": 3, "adaptive_max_pool1d": 1, "adaptive_max_pool2d": 2,
           "adaptive_max_pool3d": 3, "max_pool1d_with_indices": 1}  # fmt: skip
_MIRRORS = {
    "reflection_pad1d": 1, "reflection_pad2d": 2, "reflection_pad3d": 3,
    "replication_pad1d": 1, "replication_pad2d": 2, "replication_pad3d": 3,
}  # fmt: skip
_CONVS = {"conv1d", "conv2d", "conv3d"}
_TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_BATCH_NORMS = {
    "batch_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm",
    "miopen_batch_norm", "_batch_norm_impl_index", "_native_batch_norm_legit_functional",
    "_batch_norm_no_update", "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update", "_batch_norm_with_update_functional",
}  # fmt: skip
_NO_TRAINING = {"_native_batch_norm_legit_no_training", "_batch_norm_no_update"}
_TRAINS = "it normalises with the statistics of the batch: it is in training mode"
_UNTRACKED = "it normalises with the statistics of the batch: it tracks none"
_EVAL_HINT = "call model.eval() before"


def read_program(program: ExportedProgram) -> Graph:
    """The program's graph for the planner."""
    return _Reader(program).graph()


def _updated(program: ExportedProgram) -> set[str]:
    """Statistics that a batch_norm in training mode changes, which its schema does not say."""
    found = set()
    for node in program.graph.nodes:
        if node.op == "call_function" and _operator(node) in ("batch_norm", "instance_norm"):
            a = _Arguments(node)
            if a.first("training", "use_input_stats"):
                found |= {n.name for n in (a("running_mean"), a("running_var")) if n is not None}
    return found


def parameter_names(program: ExportedProgram) -> dict[str, str]:
    """Graph inputs that are parameters, buffers or constants, with their names in the model."""
    return {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.target is not None and hasattr(spec.arg, "name")
    }


class _Reader:
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.labels = parameter_names(program)
        mutated = set(program.graph_signature.buffers_to_mutate.values())
        mutated |= set(getattr(program.graph_signature, "parameters_to_mutate", {}).values())
        self.fixed: dict[str, torch.Tensor] = {}
        mutated |= {self.labels.get(name, "") for name in _updated(program)}
        for name, target in self.labels.items():
            tensor = program.state_dict.get(target, program.constants.get(target))
            if isinstance(tensor, torch.Tensor) and target not in mutated:
                self.fixed[name] = tensor
        self.constants: set[Node] = set()
        self.values: dict[str, Value] = {}
        self.ops: list[Op] = []
        self._numbers = lru_cache(maxsize=None)(self._evaluate)

    def graph(self) -> Graph:
        outputs: set[str] = set()
        for node in self.program.graph.nodes:
            if node.op == "output":
                outputs = {n.name for n in node.all_input_nodes}
            elif node.op == "call_function":
                self._call(node)
            else:
                self._leaf(node)
        inside = tuple(self._enclosed(self.program.graph_module, self.labels))
        return Graph(tuple(self.ops), self.values, frozenset(outputs), inside)

    def _enclosed(self, module: torch.fx.GraphModule, labels: dict[str, str]) -> Iterator[Enclosed]:
        """Normalisations in the graphs that calls such as torch.cond get as arguments."""
        for node in module.graph.nodes:
            if node.op != "call_function" or isinstance(node.target, torch._ops.OpOverload):
                continue
            names = [n.target for n in node.all_input_nodes if n.op == "get_attr"]
            graphs = [getattr(module, str(name), None) for name in names]
            leaves = pytree.tree_leaves((node.args, node.kwargs))
            given = [n for n in leaves if isinstance(n, Node) and n.op != "get_attr"]
            for inner in graphs:
                if isinstance(inner, torch.fx.GraphModule):
                    # The last arguments are the inner graph's inputs, in their order.
                    holders = [n for n in inner.graph.nodes if n.op == "placeholder"]
                    pairs = zip(reversed(holders), reversed(given), strict=False)
                    known = {h.name: labels[n.name] for h, n in pairs if n.name in labels}
                    for inside in inner.graph.nodes:
                        if _operator(inside) in (*_BATCH_NORMS, "instance_norm"):
                            label = self._owner(inside, known) or module_path(inside) or inside.name
                            yield Enclosed(label, _operator(inside), _operator(node))
                    yield from self._enclosed(inner, known)

    def _leaf(self, node: Node) -> None:
        tensor = self.fixed.get(node.name)
        if node.op == "get_attr":
            found = getattr(self.program.graph_module, str(node.target), None)
            tensor = found if isinstance(found, torch.Tensor) else None
            if tensor is not None:
                self.fixed[node.name] = tensor
        if tensor is not None:
            self.constants.add(node)
        self._value(node, self.labels.get(node.name, ""))

    def _value(self, node: Node, label: str = "") -> None:
        fixed = node in self.constants
        shape, dtype = _shape_and_dtype(node.meta.get("val"))
        numbers = (lambda: _floats(self._numbers(node))) if fixed else None
        tensor = self.fixed.get(node.name)
        native = tensor is not None and dtype in ("float32", "float64", "float16")
        stored = (lambda: tensor.detach().cpu().numpy()) if native else None  # type: ignore[union-attr]
        self.values[node.name] = Value(node.name, shape, dtype, numbers, label, stored)

    def _call(self, node: Node) -> None:
        sources = node.all_input_nodes
        name = _operator(node)
        if sources and all(n in self.constants for n in sources) and _is_pure(node):
            self.constants.add(node)
            self._value(node)
            return
        self._value(node)
        spec, inputs = _describe(node, name)
        names = tuple(self._input(node, i, item, spec) for i, item in enumerate(inputs))
        known = {n for n in names if n}
        known |= {item[0].name for item in inputs if isinstance(item, tuple)}
        # Whoever reads a tensor in a way that is not described still reads it.
        rest = tuple(n.name for n in sources if n.name not in known)
        outputs: tuple[str, ...] = (node.name,)
        if isinstance(spec, Split):
            outputs = tuple(self._piece(node, i) for i in range(len(spec.parts)))
        self.ops.append(Op(node.name, spec, names + rest, outputs, self._label(node, spec), name))

    def _piece(self, node: Node, index: int) -> str:
        """Output `index` of a call with several: the node that takes it, where there is one."""
        if not isinstance(node.meta.get("val"), (list, tuple)):
            return node.name
        name = f"{node.name}[{index}]"
        shape, dtype = _shape_and_dtype(node.meta["val"][index])
        self.values[name] = Value(name, shape, dtype)
        return name

    def _input(self, node: Node, slot: int, item: Any, spec: Spec) -> str | None:
        if isinstance(item, Node):
            return item.name
        if isinstance(item, tuple):  # (node, index): one output of several
            return f"{item[0].name}[{item[1]}]"
        if isinstance(item, (int, float)) and not isinstance(item, bool) and _is_elementwise(spec):
            name = f"{node.name}:{slot}"
            number = np.asarray(item, dtype=np.float64)
            dtype = self.values[node.name].dtype
            self.values[name] = Value(name, (), dtype, lambda: number)
            return name
        return None

    def _label(self, node: Node, spec: Spec) -> str:
        """The module that made the call; for a normalisation, the owner of its statistics."""
        owner = self._owner(node, self.labels) if isinstance(spec, Norm) else ""
        return owner or module_path(node) or node.name

    @staticmethod
    def _owner(node: Node, labels: dict[str, str]) -> str:
        """The module that holds a normalisation's parameters."""
        names = [labels.get(n.name, "") for n in node.args[1:5] if isinstance(n, Node)]
        return next((owner for name in names if (owner := name.rpartition(".")[0])), "")

    def _evaluate(self, node: Node) -> torch.Tensor:
        if node.name in self.fixed:
            return self.fixed[node.name]
        from bncheck.folding.precise import in_float64

        return in_float64(node, self._numbers)


def module_path(node: Node) -> str:
    """The path of the innermost module that made a call, "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    for key, (path, _) in reversed(stack.items()):
        if not key.startswith("_empty"):
            return str(path).removeprefix("L['self'].").removeprefix("L['self']")
    return ""


def _floats(tensor: torch.Tensor) -> Floats:
    array: Floats = tensor.detach().to(device="cpu", dtype=torch.float64).numpy()
    return array


def _shape_and_dtype(value: Any) -> tuple[Shape | None, str]:
    """Of a tensor, or of the first of several results."""
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    if not isinstance(value, torch.Tensor):
        return None, ""
    shape = tuple(
        size if isinstance(size, int) else str(size.node.expr).replace(" ", "")
        for size in value.shape
    )
    return shape, str(value.dtype).removeprefix("torch.")


def _operator(node: Node) -> str:
    """aten.conv2d.default -> conv2d."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).partition("::")[2]
    return getattr(target, "__name__", str(target))


def _is_pure(node: Node) -> bool:
    target = node.target
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    return torch.Tag.nondeterministic_seeded not in target.tags and isinstance(
        node.meta.get("val"), (torch.Tensor, tuple, list)
    )


def _is_elementwise(spec: Spec) -> bool:
    return isinstance(spec, (Add, Mul))


class _Arguments:
    """A call's arguments by the names of its schema, defaults included."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.given = dict(node.kwargs)
        self.defaults: dict[str, Any] = {}
        if isinstance(node.target, torch._ops.OpOverload):
            schema = node.target._schema.arguments
            for argument, value in zip(schema, node.args, strict=False):
                self.given[argument.name] = value
            self.defaults = {a.name: a.default_value for a in schema if a.has_default_value()}

    def __call__(self, name: str, default: Any = None) -> Any:
        if name in self.given:
            return self.given[name]
        return self.defaults.get(name, default)

    def first(self, *names: str) -> Any:
        return next((self(name) for name in names if self(name) is not None), None)


def _describe(node: Node, name: str) -> Described:
    arguments = _Arguments(node)
    if node.target is operator.getitem:
        return _getitem(node)
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
        return _opaque(node, name)
    for family in (_linear_algebra, _norms, _elementwise, _views, _joins, _pooling):
        found = family(node, name, arguments)
        if found is not None:
            return found
    return _opaque(node, name)


def _opaque(node: Node, name: str) -> Described:
    return Opaque(name), tuple(node.all_input_nodes)


def _getitem(node: Node) -> Described:
    source, index = node.args
    assert isinstance(source, Node)
    spec, _ = _describe(source, _operator(source))
    if isinstance(spec, Split):
        return Identity(), ((source, index),)
    return (Identity() if index == 0 else Opaque("getitem")), (source,)


def _rank(node: Any) -> int:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value.dim() if isinstance(value, torch.Tensor) else 0


def _sizes(value: Any, number: int) -> tuple[int, ...]:
    items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return items * number if len(items) == 1 else items


# One function a family of operators: what they are, or None ----------------------------------


def _linear_algebra(node: Node, name: str, a: _Arguments) -> Described | None:
    if name in _CONVS or (name == "convolution" and not a("transposed")):
        source = a.first("input")
        padding = a("padding")
        pads = padding == "same" or (
            padding != "valid" and any(size != 0 for size in _sizes(padding, 1))
        )
        if _rank(source) != _rank(a("weight")):
            return None
        pads = pads and not (padding == "same" and set(_kernel(a("weight"))) == {1})
        return Conv(int(a("groups")), pads), (source, a("weight"), a("bias"))
    if name in _TRANSPOSED or name == "convolution":
        return _transposed(a)
    if name == "linear" and _rank(a("weight")) == 2:
        return Linear(output_first=True), (a("input"), a("weight"), a("bias"))
    if name in ("matmul", "mm") and _rank(node.args[1]) == 2:
        return Linear(output_first=False), (node.args[0], node.args[1], None)
    if name == "addmm":
        alpha, beta = a("alpha", 1), a("beta", 1)
        if not isinstance(alpha, (int, float)) or not isinstance(beta, (int, float)):
            return None
        if _rank(a("self")) > 1 and _shape_and_dtype(a("self").meta["val"])[0][0] != 1:  # type: ignore[index]
            return None
        return Linear(False, float(alpha), float(beta)), (a("mat1"), a("mat2"), a("self"))
    return None


def _kernel(weight: Any) -> tuple[int, ...]:
    return tuple(weight.meta["val"].shape[2:]) if isinstance(weight, Node) else ()


def _transposed(a: _Arguments) -> Described | None:
    source, weight = a("input"), a("weight")
    if _rank(source) != _rank(weight):
        return None
    kernel = _kernel(weight)
    number = len(kernel)
    stride = _sizes(a("stride"), number)
    tiles = (
        stride == kernel
        and not any(_sizes(a("padding"), number))
        and not any(_sizes(a("output_padding"), number))
        and (set(_sizes(a("dilation"), number)) == {1})
    )
    spec = ConvTranspose(int(a("groups")), tiles, stride if tiles else ())
    return spec, (source, weight, a("bias"))


def _norms(node: Node, name: str, a: _Arguments) -> Described | None:
    if name in _BATCH_NORMS:
        trains = bool(a.first("training", "train")) or "with_update" in name
        trains = (trains or name.endswith("_functional")) and name not in _NO_TRAINING
    elif name == "instance_norm":
        trains = bool(a("use_input_stats"))
    else:
        return None
    mean, var = a("running_mean"), a("running_var")
    why = _UNTRACKED if mean is None or var is None else f"{_TRAINS}. {_EVAL_HINT}"
    if name == "instance_norm" and trains:
        why = "it normalises each image with its own statistics"
    eps = a.first("eps", "epsilon")
    spec = Norm(float(eps), trains or mean is None or var is None, why)
    return spec, (a("input"), a("weight"), a("bias"), mean, var)


def _elementwise(node: Node, name: str, a: _Arguments) -> Described | None:
    first, second = (*node.args, None, None)[:2]
    if name in ("add", "sub", "rsub") and a("alpha", 1) == 1:
        signs = {"add": (1.0, 1.0), "sub": (1.0, -1.0), "rsub": (-1.0, 1.0)}[name]
        return Add(signs), (first, second)
    if name in ("mul", "multiply"):
        return Mul(), (first, second)
    if name in ("div", "divide", "true_divide") and a("rounding_mode") is None:
        return Mul(divides=True), (first, second)
    if name == "neg":
        return Mul(), (first, -1)
    if name in ("relu", "leaky_relu"):
        slope = a("negative_slope", 0.0)
        return (Rectifier(name), (first,)) if isinstance(slope, (int, float)) else None
    return None


def _views(node: Node, name: str, a: _Arguments) -> Described | None:
    source = node.args[0] if node.args else None
    rank = _rank(source)
    if name in _SHAPE_ONLY:
        return ShapeOf(), (source,)
    if name in _IDENTITIES or (name in _DROPOUTS and a("train") is False):
        return Identity(), (source,)
    if name == "native_dropout" and a("train") is False:
        return Identity(), (source,)
    if name in ("to", "_to_copy", "type_as", "_to_dtype"):
        return _conversion(node, source)
    if name in _RESHAPES:
        return Reshape(), (source,)
    if name in ("permute", "permute_copy"):
        return Transpose(tuple(int(d) % rank for d in a("dims"))), (source,)
    if name in ("transpose", "swapaxes", "swapdims", "t", "transpose_copy", "t_copy", "numpy_T"):
        if rank < 2:
            return Identity(), (source,)
        if name == "numpy_T":
            return Transpose(tuple(range(rank))[::-1]), (source,)
        given: tuple[Any, ...] = (*node.args[1:3], 0, 1)
        pair = [int(d) % rank for d in given[:2]]
        order = list(range(rank))
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
        return Transpose(tuple(order)), (source,)
    if name == "movedim":
        return _moved(node, a, rank)
    if name in ("expand", "expand_copy", "broadcast_to", "expand_as"):
        return Expand(), (source,)
    if name == "flip":
        return Flip(tuple(int(d) % rank for d in a("dims"))), (source,)
    if name in ("pixel_shuffle", "pixel_unshuffle") and rank == 4:
        factor = int(a.first("upscale_factor", "downscale_factor"))
        return PixelShuffle(factor, name == "pixel_unshuffle"), (source,)
    return None


def _conversion(node: Node, source: Any) -> Described | None:
    """A cast between floating dtypes keeps the map; any other does not."""
    dtypes = [n.meta["val"].dtype for n in (node, source)]
    return (Identity(), (source,)) if set(dtypes) <= _FLOATING else None


def _moved(node: Node, a: _Arguments, rank: int) -> Described | None:
    """numpy.moveaxis' rule."""
    source = [int(d) % rank for d in _sizes(node.args[1], 1)]
    target = [int(d) % rank for d in _sizes(node.args[2], 1)]
    order = [i for i in range(rank) if i not in source]
    for place, axis in sorted(zip(target, source, strict=True)):
        order.insert(place, axis)
    return Transpose(tuple(order)), (node.args[0],)


def _joins(node: Node, name: str, a: _Arguments) -> Described | None:
    if name in ("cat", "concat", "concatenate"):
        parts = node.args[0]
        assert isinstance(parts, Sequence)
        if len({_rank(part) for part in parts}) != 1:  # torch.cat skips empty 1-D tensors
            return None
        return Concat(int(a("dim", 0)) % _rank(parts[0])), tuple(parts)
    source = node.args[0] if node.args else None
    rank = _rank(source)
    if not rank:
        return None
    axis = int(a("dim", 0) or 0) % rank if isinstance(a("dim", 0), int) else 0
    if name in ("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "split_copy",
                "unsafe_split", "unsafe_split_with_sizes", "split_with_sizes_copy"):  # fmt: skip
        return _split(node, source, axis)
    if name == "unbind":
        number = len(node.meta["val"])
        return Split(axis, tuple(slice(i, i + 1) for i in range(number)), drops=True), (source,)
    if name in ("slice", "slice_copy", "narrow"):
        return _slice(a, name, source, axis)
    if name in ("select", "select_copy") and isinstance(a("index"), int):
        size = source.meta["val"].shape[axis]  # type: ignore[union-attr]
        if not isinstance(size, int):
            return None
        index = a("index") % size
        return Split(axis, (slice(index, index + 1),), drops=True), (source,)
    return None


def _split(node: Node, source: Any, axis: int) -> Described | None:
    """Where the parts lie is read off the results."""
    sizes = [part.shape[axis] for part in node.meta["val"]]
    if not all(isinstance(size, int) for size in sizes):
        return None
    ends = np.cumsum([0, *sizes])
    pairs = itertools.pairwise(ends)
    return Split(axis, tuple(slice(int(i), int(j)) for i, j in pairs)), (source,)


def _slice(a: _Arguments, name: str, source: Any, axis: int) -> Described | None:
    start, end, step = a("start"), a("end"), a("step", 1)
    if name == "narrow" and isinstance(start, int) and isinstance(a("length"), int):
        end, step = start + a("length"), 1
    bounds = (start, end, step)
    if not all(item is None or isinstance(item, int) for item in bounds):
        return None
    return Split(axis, (slice(*bounds),)), (source,)


def _pooling(node: Node, name: str, a: _Arguments) -> Described | None:
    source = node.args[0] if node.args else None
    rank = _rank(source)

    def last(number: int) -> tuple[int, ...]:
        return tuple(range(rank - number, rank))

    if name in _AVERAGES:
        return Average(last(_AVERAGES[name])), (source,)
    if name in ("avg_pool1d", "avg_pool2d", "avg_pool3d"):
        number = int(name[-2])
        counts = any(_sizes(a("padding"), number)) and bool(a("count_include_pad"))
        return Average(last(number), counts or a("divisor_override") is not None), (source,)
    if name in _RESIZES:
        return Average(last(_RESIZES[name])), (source,)
    if name in _MAXIMA:
        return Maximum(last(_MAXIMA[name])), (source,)
    if name in ("mean", "amax") and not _changes_dtype(node, source):
        given = a("dim")
        axes = range(rank) if given in (None, []) else [d % rank for d in _sizes(given, 1)]
        drops = not a("keepdim", False)
        kind = Average if name == "mean" else Maximum
        return kind(axes=tuple(sorted(axes)), drops=drops), (source,)
    return _padding(node, name, a, source, last)


def _changes_dtype(node: Node, source: Any) -> bool:
    return bool(node.meta["val"].dtype != source.meta["val"].dtype)


def _padding(
    node: Node, name: str, a: _Arguments, source: Any, last: Callable[[int], tuple[int, ...]]
) -> Described | None:
    if name in _MIRRORS:
        return Pad(last(_MIRRORS[name]), None), (source,)
    if name in ("pad", "constant_pad_nd"):
        amounts = list(a("pad"))
        axes = tuple(
            axis
            for i, axis in enumerate(reversed(last(len(amounts) // 2)))
            if any(size != 0 for size in amounts[2 * i : 2 * i + 2])
        )
        mode = a("mode", "constant")
        value = a("value") or 0.0
        if mode == "constant" and not isinstance(value, (int, float)):
            return None
        # A negative amount cuts, which an affine map passes as it does a copy.
        return Pad(axes, float(value) if mode == "constant" else None), (source,)
    return None


def nodes_of(program: ExportedProgram) -> Iterator[Node]:
    """The calls of a program."""
    return (node for node in program.graph.nodes if node.op == "call_function")
