"""torch.export program -> ONNX, by torch's own exporter, in silence."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import onnx

from bncheck.core.errors import BncheckError
from bncheck.core.extras import need
from bncheck.core.timing import timed
from bncheck.core.words import shortened
from bncheck.reading.onnx_weights import KEPT_BYTES
from bncheck.runtime.weights import Weights
from bncheck.shipping.naming import name_axes
from bncheck.shipping.opsets.lowering import OLDEST, lowered
from bncheck.shipping.scrubbing import scrub

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_HIDDEN = "bncheck.hidden"
#: The oldest opset that torch writes; to older ones it converts, or does not and keeps silent.
TORCH_OLDEST = 18
_NO_FORM = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")


def check_installed() -> None:
    """One line for what is missing, before any work."""
    need("torch", "onnxscript", "onnxruntime", purpose="export to ONNX")


@dataclass(frozen=True)
class Converted:
    """A model that refers to its large weights, and these, which share the program's memory.

    `calls` are the calls or inputs of the program that make each value.
    """

    model: onnx.ModelProto
    weights: Weights
    calls: Mapping[str, str]


@timed("exporting to ONNX")
def to_onnx(
    program: ExportedProgram,
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int | None = None,
) -> Converted:
    """The program as a model without metadata. Raises BncheckError in one line.

    torch's optimisation folds a float BatchNormalization into a half convolution, and one in
    training mode by its running statistics; so none is shown to it: folding is done before.
    """
    import torch

    from bncheck.folding.program.exporting import user_inputs

    try:
        with _quiet(), _registry_kept():
            made = torch.onnx.export(
                _in_rows(program),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=None if opset is None else max(opset, TORCH_OLDEST),
                input_names=list(inputs),
                output_names=list(outputs),
            )
            assert made is not None
            calls = _calls(made.model.graph.all_nodes())
            hidden = [n for n in made.model.graph.all_nodes() if n.op_type == "BatchNormalization"]
            for node in hidden:
                node.domain = _HIDDEN
            made.optimize()
            for node in hidden:
                node.domain = ""
            weights = Weights()
            model = _at_opset(_beside(made, weights), opset)
    except BncheckError:
        raise
    except Exception as error:
        from bncheck.shipping.free_groups import free_groups

        raise free_groups(program) or _inexpressible(error) from None
    scrub(model)
    name_axes(model)
    tensors = [n.name for n in user_inputs(program) if hasattr(n.meta.get("val"), "dtype")]
    return Converted(model, weights, {**calls, **dict(zip(inputs, tensors, strict=False))})


def _beside(made: Any, weights: Weights) -> onnx.ModelProto:
    """The message with references to its large weights."""
    numbers = {}
    for name, value in made.model.graph.initializers.items():
        if value.const_value is not None:
            array = value.const_value.numpy()
            if array.nbytes > KEPT_BYTES and array.dtype.isbuiltin:
                numbers[name] = array
                value.const_value = None  # it is not written then
    model: onnx.ModelProto = made.model_proto
    model.graph.initializer.extend(weights.tensor(name, array) for name, array in numbers.items())
    return model


def _calls(nodes: Iterable[Any]) -> dict[str, str]:
    """The names, in the program as it was given, of the calls that nodes were made of.

    torch decomposes calls before, and gives what comes of them other names.
    """
    found = {}
    for node in nodes:
        call = node.meta.get("node")
        sources = call.meta.get("from_node") if call is not None else None
        if sources:
            found.update({value.name: sources[0].name for value in node.outputs})
    return found


def _in_rows(program: ExportedProgram) -> ExportedProgram:
    """The program in which what an attention returns is laid out in memory row by row.

    torch decides by the layout of its own kernel that a reshape of it is a view, and then
    decomposes the attention into calls that have another one.
    """
    import torch

    from bncheck.folding.program.rebuilding import copied, rebuilt

    graph, attention = copied(program.graph), torch.ops.aten.scaled_dot_product_attention.default
    found = [node for node in graph.nodes if node.target is attention]
    for node in found:
        with graph.inserting_after(node):
            row: dict[str, Any] = {"memory_format": torch.contiguous_format}
            copy = graph.call_function(torch.ops.aten.clone.default, (node,), row)
        copy.meta = {**node.meta, "val": node.meta["val"].clone(memory_format=row["memory_format"])}
        node.replace_all_uses_with(copy, lambda user, copy=copy: user is not copy)
    return rebuilt(program, graph) if found else program


def _at_opset(model: onnx.ModelProto, wanted: int | None) -> onnx.ModelProto:
    """The model at the opset that was asked for: for 11 and 13 torch leaves 18, and only logs it.

    https://github.com/pytorch/pytorch/issues/161056
    """
    if wanted is not None and wanted < opset_of(model):
        model = lowered(model, wanted)
    written = opset_of(model)
    if wanted is not None and written != wanted:
        raise BncheckError(f"--opset {wanted} became {written}", f"give {OLDEST} to {written}")
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its progress, its advice and its warnings are nothing that a user of ours could act on."""
    before = logging.root.manager.disable
    nothing = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


@contextlib.contextmanager
def _registry_kept() -> Iterator[None]:
    """torch's table of ONNX functions, made once for an opset; by itself it makes one per export.

    To list its functions onnxscript parses the source of each of the 500, which is half of the
    time that a small network takes. An export only reads the table.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        holder: Any = ONNXRegistry
        make = vars(holder)["from_torchlib"]
    except (ImportError, KeyError):  # another version of torch keeps it elsewhere
        yield
        return
    holder.from_torchlib = staticmethod(_once(holder.from_torchlib))
    try:
        yield
    finally:
        holder.from_torchlib = make


@cache
def _once(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which remembers what it made from one export to the next."""
    return cache(make)


def _inexpressible(error: BaseException) -> BncheckError:
    """The innermost reason of an export that failed."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", str(e)) for e in reversed(chain))
    found = _NO_FORM.search(text)
    if found:
        return BncheckError(
            f"calls {found[1]}, for which torch {_version()} has no ONNX form",
            "write it with other operators",
        )
    if "unbacked symbol" in text.lower():
        return BncheckError(
            f"has sizes that depend on the values of a tensor (nonzero, x[mask]), in a way that "
            f"torch {_version()} cannot write as ONNX",
            "name a submodule before them with --part, or write them with torch.where",
        )
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return BncheckError(
        f"cannot be written as ONNX ({type(chain[-1]).__name__}: {shortened(first, 160)})",
        "write what the message names with other operators",
    )


def _version() -> str:
    import torch

    return str(torch.__version__).partition("+")[0]


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    versions: list[Any] = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return int(max(versions, default=0))
