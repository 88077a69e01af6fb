"""The ONNX model that there would be without the fold, made from the folded one.

It is asked for its nodes and its latency, and for these no program need be converted twice: a fold
takes BatchNorms away and leaves all other calls, with other numbers. The weights are those of the
folded model, because a runtime takes as long whatever they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bncheck.graph.onnx.nodes import FLOATS

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

_ROLES: Final = ("scale", "B", "input_mean", "input_var")
_KINDS: Final = {name: kind for kind, name in FLOATS.items()}


class _UnknownError(Exception):
    """The fold did more than to take BatchNorms away, or a value has another name in ONNX."""


def unfolded(
    model: onnx.ModelProto,
    calls: Mapping[str, str],
    plain: ExportedProgram,
    shipped: ExportedProgram,
) -> onnx.ModelProto | None:
    """`model`, which was made of `shipped`, with the BatchNorms of `plain`; it may lack weights.

    `calls` names the call or input of `shipped` that made each value. None where the two programs
    do not tell where the norms were.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    try:
        _PuttingBack(new.graph, calls, plain, shipped).run()
    except _UnknownError:
        return None
    return new


class _PuttingBack:
    """`norms` are ONNX values that norms make, by the names that these have in the program."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        calls: Mapping[str, str],
        plain: ExportedProgram,
        shipped: ExportedProgram,
    ) -> None:
        self._graph, self._nodes, self._calls = graph, list(graph.node), calls
        self._values = {call: value for value, call in calls.items()}  # the last that each makes
        self._old = {node.name: node for node in plain.graph.nodes if node.op == "call_function"}
        self._new = {node.name: node for node in shipped.graph.nodes if node.op == "call_function"}
        self._made = {name: node for node in self._nodes for name in node.output if name}
        self._forms = {name for name in self._new if name not in self._old}
        self._norms: dict[str, str] = {}

    def run(self) -> None:
        """Raises _UnknownError."""
        for name in self._old.keys() & self._new.keys():
            _check_alike(self._old[name], self._new[name])
        for norm in self._old.values():
            if norm.name not in self._new:
                self._put_back(norm)
        if self._forms:
            raise _UnknownError
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)

    def _put_back(self, norm: Node) -> None:
        dtype, channels = _statistics(norm)
        source = norm.args[0]
        form = self._form_of(norm)
        if form is not None:
            result = self._name(form)
            before = self._take_out(form)
            self._norms[norm.name] = result
        elif len(source.users) == 1 and self._name(source) in self._made:  # type: ignore[union-attr]
            result = self._name(source)
            before = self._renamed(result, norm)
            self._norms[norm.name] = result
        else:
            before = self._name(source)
            result = self._norms[norm.name] = f"{before}/{norm.name}"
            self._let_read(norm, before, result)
        self._add(norm, before, result, numpy_helper.from_array(np.ones(channels, dtype)))

    def _name(self, node: Any) -> str:
        """The ONNX value of a call of the program."""
        name = self._norms.get(node.name) or self._values.get(node.name)
        if name is None or not (name in self._made or node.op == "placeholder"):
            raise _UnknownError
        return name

    def _form_of(self, norm: Node) -> Node | None:
        """The call that stands where a norm was, if it was rewritten."""
        for user in norm.users:
            now = self._new[user.name].all_input_nodes if user.name in self._new else []
            place = user.all_input_nodes.index(norm)
            if place < len(now) and now[place].name in self._forms:
                found: Node = now[place]
                return found
        return None

    def _take_out(self, form: Node) -> str:
        """Drop the convolution, or the product and the sum. Gives what they read."""
        last = self._made[self._name(form)]
        nodes = [last]
        if last.op_type == "Add":
            nodes.append(self._made[last.input[0]])
            self._forms -= {node.name for node in form.all_input_nodes}
        self._forms.discard(form.name)
        self._nodes = [node for node in self._nodes if not any(node is each for each in nodes)]
        return str(nodes[-1].input[0])

    def _renamed(self, name: str, norm: Node) -> str:
        """Another name for a value whose own goes to the norm that was its only reader."""
        maker, new = self._made[name], f"{name}/{norm.name}"
        maker.output[list(maker.output).index(name)] = new
        self._made[new] = maker
        return new

    def _let_read(self, norm: Node, before: str, after: str) -> None:
        """Let the calls that read the norm read `after`."""
        waiting = {user.name for user in norm.users if user.name in self._new}
        for node in [node for node in self._nodes if before in node.input]:
            makes = {self._calls.get(name) for name in node.output}
            if not makes.isdisjoint(user.name for user in norm.users):
                node.input[:] = [after if name == before else name for name in node.input]
                waiting -= makes
        if waiting:
            raise _UnknownError

    def _add(self, norm: Node, before: str, result: str, ones: onnx.TensorProto) -> None:
        names = [f"{norm.name}/{role}" for role in _ROLES]
        for name in names:
            ones.name = name
            self._graph.initializer.append(ones)
        node = helper.make_node("BatchNormalization", [before, *names], [result])
        maker = self._made.get(before)
        place = next((i for i, each in enumerate(self._nodes) if each is maker), -1)
        self._nodes.insert(place + 1, node)
        self._made[result] = node


def _check_alike(old: Node, new: Node) -> None:
    """Raise for a call that has become another one. A bias that it got may make no node more."""
    few = len(old.all_input_nodes) == len(new.all_input_nodes)
    if old.target != new.target or not (few or _is_one_node(old)):
        raise _UnknownError


def _is_one_node(call: Node) -> bool:
    """Whether it is one ONNX node with a bias and without: a Conv, or the Gemm of two axes."""
    name = str(call.target)
    return name.startswith("aten.conv") or (
        name.startswith("aten.linear.") and len(call.meta["val"].shape) == 2
    )


def _statistics(norm: Node) -> tuple[Any, int]:
    """The dtype and the size of a BatchNorm's numbers. Raises _UnknownError for another call."""
    from bncheck.graph.program.calls import Arguments, operator_name

    given = Arguments(norm)
    mean, source = given("running_mean"), norm.args[0]
    if operator_name(norm) != "batch_norm" or given("training") or mean is None:
        raise _UnknownError
    kinds = {node.meta["val"].dtype for node in (mean, source)}  # type: ignore[union-attr]
    kind = _KINDS.get(str(kinds.pop()).removeprefix("torch."))
    if kinds or kind is None:
        raise _UnknownError
    return helper.tensor_dtype_to_np_dtype(kind), int(mean.meta["val"].shape[0])
