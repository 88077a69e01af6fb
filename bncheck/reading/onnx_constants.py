"""What is constant in an ONNX graph: initialisers, Constant nodes, and what is computed of these.

One resolver for `inspect` and `fold`, so that both see the same numbers. The shape of a result is
inferred before anything is computed, and onnx' reference computes it when it is asked for: a few
bytes of a file can ask for terabytes.

To teach bncheck an operator that constants pass through, add one line to `_COMPUTED`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bncheck.core.budget import Account
from bncheck.core.errors import BncheckError, quoted
from bncheck.core.limits import MAX_COMPUTED_NUMBERS, MAX_MADE_NUMBERS
from bncheck.reading.onnx_doubts import EXPORT_AGAIN, is_external
from bncheck.reading.onnx_names import STANDARD
from bncheck.reading.tensors import MOST_AXES

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

_ALIKE = """
    Abs Add And Cast CastLike Ceil Clip Cos DequantizeLinear Div Equal Erf Exp Floor Greater
    GreaterOrEqual Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mod Mul Neg Not
    Or Pow QuantizeLinear Reciprocal Relu Round Sigmoid Sign Sin Softmax Softplus Sqrt Sub Sum Tanh
    Where Xor ArgMax ArgMin Concat CumSum DepthToSpace Flatten Gather GatherElements GatherND Gemm
    MatMul ScatterElements ScatterND Shape Size SpaceToDepth Transpose Trilu
    LpNormalization ReduceLogSum ReduceLogSumExp ReduceSumSquare
"""
#: The operators that constants are computed with, and which inputs the shape of the result depends
#: on by their numbers. Others may take time without end, or have no one result.
_COMPUTED: Final[Mapping[str, tuple[int, ...]]] = {
    **dict.fromkeys(_ALIKE.split(), ()),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin"), (1,)),
    **dict.fromkeys(("ReduceProd", "ReduceSum", "Squeeze", "Unsqueeze", "Split", "Tile"), (1,)),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
}
#: onnx' reference has it from this version on only; its meaning has not changed.
_LEAST_VERSION: Final = {"DequantizeLinear": 19}
_SMALL: Final = 64  # numbers that can be a shape
_PRODUCTS: Final = 64  # take as long as computing a number
#: onnx' reference does these in Python, each number by itself.
_SLOW: Final = {"GatherND": 32, "ScatterND": 32, "GatherElements": 16, "ScatterElements": 16}
_NODE_BYTES: Final = 8192  # what remembering a computed constant takes, however small it is
_VALUES: Final = ("value", "sparse_value")  # of a Constant: value_float, value_ints...
_FOLD: Final = "export it again with constant folding"
_SOURCES: Final = 16  # stored constants that one is taken to come from
#: Results are computed at this depth, so that asking for one is not a recursion without end.
_DEEPEST: Final = 32
_FRACTIONS: Final = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE))
_REFUSALS = (
    onnx.defs.SchemaError,
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, eq=False, slots=True)
class Constant:
    """A value whose numbers are fixed. `dtype` is onnx' number of it.

    `origins` are the stored constants that it is computed from, itself where it is stored.
    """

    name: str
    shape: tuple[int, ...]
    dtype: int
    read: Callable[[], Array]
    origins: tuple[Constant, ...] = ()
    depth: int = 0

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def held(tensor: onnx.TensorProto) -> Array:
    """The numbers that stand in the message itself.

    numpy_helper would look for others in the folder that bncheck was started in.
    """
    if is_external(tensor):
        raise BncheckError(f"keeps the numbers of {quoted(tensor.name)} in another file", _FOLD)
    array: Array = numpy_helper.to_array(tensor)
    return array


class Resolver:
    """Finds the constants of one model.

    `load` reads a stored tensor; None: those whose numbers stand in the message. `kept` is asked
    for the bytes of what is computed, all of which stays in memory; None: as much as the work
    allows.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        load: Callable[[onnx.TensorProto], Array] | None = None,
        kept: Account | None = None,
    ) -> None:
        self.opset = opset_of(model)
        self._ir = max(model.ir_version, 4)
        self._load = load or held
        self._work = Account(
            "MAX_COMPUTED_NUMBERS",
            MAX_COMPUTED_NUMBERS,
            "computes more than {} constant numbers",
            _FOLD,
        )
        self._kept = kept

    def stored(self, name: str, tensor: onnx.TensorProto) -> Constant:
        """An initialiser, or the tensor of a Constant node."""
        shape = tuple(tensor.dims[: MOST_AXES + 1])  # too many are refused when it is read
        return Constant(name, shape, tensor.data_type, partial(self._load, tensor))

    def outputs(
        self, node: onnx.NodeProto, known: Mapping[str, Constant]
    ) -> Sequence[Constant] | None:
        """A node's results where they are constant and of a bounded size, else None."""
        if node.domain not in STANDARD or not node.output:
            return None
        if node.op_type == "Constant":
            return self._literal(node)
        # Before opset 7 this attribute says along which axis the second operand lies.
        if self.opset < 7 and any(attribute.name == "broadcast" for attribute in node.attribute):
            return None
        names = [name for name in node.input if name]
        if node.op_type not in _COMPUTED or not names or any(name not in known for name in names):
            return None
        given = {name: known[name] for name in names}
        if _computed_otherwise(node, self.opset, given):
            return None
        if node.op_type == "Identity":
            return [given[names[0]]]
        if max(constant.depth for constant in given.values()) >= _DEEPEST:
            for constant in given.values():
                constant.read()
            given = {name: replace(constant, depth=0) for name, constant in given.items()}
        return self._computed(node, given)

    def _literal(self, node: onnx.NodeProto) -> Sequence[Constant] | None:
        """The value of a Constant node, in whichever attribute it stands."""
        values = [given for given in node.attribute if given.name.startswith(_VALUES)]
        if len(values) > 1:  # onnxruntime takes the first, whatever it is
            raise BncheckError(
                f"has a constant {quoted(str(node.output[0]))} of two values", EXPORT_AGAIN
            )
        for given in values:
            if given.name == "value" and given.HasField("t"):
                return [self.stored(node.output[0], given.t)]
            if given.name in ("value_float", "value_floats"):
                floats = np.array(given.floats if given.name.endswith("s") else given.f, np.float32)
                return [self.stored(node.output[0], numpy_helper.from_array(floats))]
            if given.name in ("value_int", "value_ints"):
                whole = np.array(given.ints if given.name.endswith("s") else given.i, np.int64)
                return [self.stored(node.output[0], numpy_helper.from_array(whole))]
        return None

    def _computed(
        self, node: onnx.NodeProto, given: Mapping[str, Constant]
    ) -> Sequence[Constant] | None:
        self._keep(_NODE_BYTES)
        kinds = self._inferred(node, given)
        if any(dtype == onnx.TensorProto.STRING for _, dtype in kinds or ()):
            return None
        inputs = [constant.elements for constant in given.values()]
        outputs = [math.prod(shape) for shape, _ in kinds or ()]
        if kinds is None or max(outputs) > max(MAX_MADE_NUMBERS, *inputs):
            return None
        size = sum(math.prod(shape) * _itemsize(dtype) for shape, dtype in kinds)
        run = partial(self._run, node, given, _work(node.op_type, inputs, outputs), size)
        results = lru_cache(maxsize=None)(run)
        origins = tuple(dict.fromkeys(o for c in given.values() for o in c.origins or (c,)))
        depth = 1 + max(constant.depth for constant in given.values())

        def read(place: int, shape: tuple[int, ...]) -> Array:
            found = results()[place]
            if np.shape(found) != shape:
                raise _not_computed(node, f"of the shape {np.shape(found)}, not {shape}")
            return found

        return [
            Constant(name, shape, dtype, partial(read, place, shape), origins[:_SOURCES], depth)
            for place, (name, (shape, dtype)) in enumerate(zip(node.output, kinds, strict=True))
        ]

    def _inferred(
        self, node: onnx.NodeProto, given: Mapping[str, Constant]
    ) -> list[tuple[tuple[int, ...], int]] | None:
        """The shapes and dtypes of the results, None where they are not known."""
        slots = _COMPUTED[node.op_type]
        sizes = [name for slot, name in enumerate(node.input) if name and slot in slots]
        data = {
            name: numpy_helper.from_array(np.asarray(given[name].read()))
            for name in sizes
            if given[name].elements <= _SMALL
        }
        types = {n: helper.make_tensor_type_proto(c.dtype, c.shape) for n, c in given.items()}
        found = inferred_types(node, self.opset, types, data)
        kinds = [found[name].tensor_type for name in node.output if name in found]
        whole = all(
            kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim)
            for kind in kinds
        )
        if not whole or len(kinds) != len(node.output):
            return None
        return [(tuple(d.dim_value for d in kind.shape.dim), kind.elem_type) for kind in kinds]

    def _run(
        self, node: onnx.NodeProto, given: Mapping[str, Constant], numbers: int, size: int
    ) -> Sequence[Array]:
        from onnx.reference import ReferenceEvaluator

        inputs, outputs = (
            [helper.make_empty_tensor_value_info(name) for name in names]
            for names in (given, node.output)
        )
        graph = helper.make_graph([node], "constant", inputs, outputs)
        version = max(self.opset, _LEAST_VERSION.get(node.op_type, 1))
        opsets = [helper.make_opsetid("", version)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self._ir)
        feed = {name: constant.read() for name, constant in given.items()}
        self._work.take(numbers)
        self._keep(size)
        try:
            with warnings.catch_warnings(action="ignore"):  # numbers of a stranger overflow
                results = list(ReferenceEvaluator(model).run(None, feed))
        except Exception as error:
            raise _not_computed(node, type(error).__name__) from None
        return results

    def _keep(self, size: int) -> None:
        if self._kept:
            self._kept.take(size)


def _computed_otherwise(node: onnx.NodeProto, opset: int, given: Mapping[str, Constant]) -> bool:
    """Whether onnx' reference (1.23) is known to compute something else than runtimes do."""
    if node.op_type == "Softmax":  # over all axes from that one on, before opset 13
        return opset < 13
    if node.op_type == "LpNormalization":  # the sum in place of that of the magnitudes
        return any(attribute.name == "p" and attribute.i == 1 for attribute in node.attribute)
    if node.op_type == "OneHot":  # of 1.7: none in place of 1
        return any(given[name].dtype in _FRACTIONS for name in node.input[:1] if name)
    return False


def _itemsize(dtype: int) -> int:
    return int(np.dtype(helper.tensor_dtype_to_np_dtype(dtype)).itemsize)


def _not_computed(node: onnx.NodeProto, why: str) -> BncheckError:
    return BncheckError(
        f"has a constant {quoted(str(node.output[0]))} that cannot be computed ({why})",
        _FOLD,
    )


def _work(kind: str, inputs: Sequence[int], outputs: Sequence[int]) -> int:
    """What computing a node takes, in numbers that are read or written."""
    numbers = (sum(inputs) + sum(outputs)) * _SLOW.get(kind, 1)
    if kind not in ("MatMul", "Gemm"):
        return numbers
    products = math.isqrt(math.prod((*inputs[:2], *outputs)))  # m k n = sqrt(mk * kn * mn)
    return numbers + products // _PRODUCTS


def inferred_types(
    node: onnx.NodeProto,
    opset: int,
    types: dict[str, onnx.TypeProto],
    numbers: dict[str, onnx.TensorProto],
) -> Mapping[str, onnx.TypeProto]:
    """What onnx infers of a standard node's results from its inputs; nothing where it refuses."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        found: Mapping[str, onnx.TypeProto] = onnx.shape_inference.infer_node_outputs(
            schema, node, types, numbers
        )
    except _REFUSALS:
        return {}
    return found


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators. Raises BncheckError where there are two."""
    found = {o.version for o in model.opset_import if o.domain in STANDARD}
    if len(found) > 1:
        raise BncheckError(f"is of the opsets {sorted(found)} at once", EXPORT_AGAIN)
    return int(max(found, default=1))
