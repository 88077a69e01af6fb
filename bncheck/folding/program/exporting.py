"""A module becomes a torch.export program with a free batch size."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.utils import _pytree as pytree

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.timing import timed
from bncheck.core.words import shortened
from bncheck.folding.program.sizes import fixed_size
from bncheck.graph.program.calls import Arguments
from bncheck.graph.program.from_module import quiet
from bncheck.subject.inputs import takes

_SITE = str(Path(torch.__file__).parent)
_STANDARD = str(Path(inspect.__file__).parent)
_PACKAGE = str(Path(__file__).parents[2])
_USER_LINE = re.compile(r'File "([^"]+)", line (\d+)(?:, in (\S+))?\n\s*(.+)')


def as_arguments(example_inputs: object) -> tuple[Any, ...]:
    """What a model is called with: a tuple or a list of inputs, or the only one."""
    if example_inputs is None:
        return ()
    return tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)


#: A file, the number of a line, and the line.
Line: TypeAlias = tuple[str, int, str | None]
#: What torch.export calls a free size in an error, which says nothing to users.
_SIZE_SYMBOL = re.compile(r"\bs\d+\b")


def export_program(
    model: nn.Module, example_inputs: tuple[Any, ...], batch_axes: Sequence[int | None] = ()
) -> ExportedProgram:
    """Export a module; raises BncheckError with the user's line where that is impossible.

    The first axis of every input is left free where the model allows it, or that of the first input
    and the second of others, as recurrent networks want it for their states. An example of one
    sample would fix it, so it is doubled for the export. `batch_axes`, one for each input, are left
    free instead; None for one that has no batch.
    """
    _check_call(model, example_inputs)
    if batch_axes:
        return export_shaped(model, example_inputs, tuple(map(_free, batch_axes)))
    failure: Exception | None = None
    doubled = _doubled(example_inputs)
    for inputs in [example_inputs] if doubled is None else [doubled, example_inputs]:
        try:
            program = _export(model, inputs, _free_batch(inputs))
        except Exception as error:
            failure = error
            continue
        if has_free_batch(program):
            return program
        if inputs is example_inputs:
            return _with_states(model, inputs) or program
    try:  # inputs whose first axis is not a batch
        # In copies: torch has marked the axes of these tensors as free.
        fresh: tuple[Any, ...] = pytree.tree_map(
            lambda t: t.detach().clone() if isinstance(t, torch.Tensor) else t, example_inputs
        )
        return _export(model, fresh, None)
    except Exception as error:
        if failure is None or _SIZE_SYMBOL.search(str(failure)):
            failure = error
        raise _unexportable(failure) from None


def _free(axis: int | None) -> dict[int, Any]:
    return {} if axis is None else {axis: Dim.AUTO}


def _check_call(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raise for inputs that the model's forward cannot be called with, and for empty ones."""
    tensors = [item for item in pytree.tree_leaves(inputs) if isinstance(item, torch.Tensor)]
    if any(tensor.dim() and not len(tensor) for tensor in tensors):
        raise BncheckError("the example inputs hold no sample", "give at least one sample")
    try:
        signature = inspect.signature(model.forward)
    except ValueError:  # TorchScript shows none
        return
    try:
        signature.bind(*inputs)
    except TypeError as error:
        raise BncheckError(
            f"the example inputs do not fit the model's forward ({error})", takes(signature)
        ) from None


@timed("exporting the program")
def _export(model: nn.Module, inputs: tuple[Any, ...], shapes: Any) -> ExportedProgram:
    with usercode.exporting(), quiet(), torch.no_grad():
        return torch.export.export(model, inputs, dynamic_shapes=shapes)


def _free_batch(inputs: tuple[Any, ...]) -> ShapesCollection:
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for item in pytree.tree_leaves(inputs):
        if isinstance(item, torch.Tensor) and item.dim():
            shapes[item] = {0: Dim.AUTO}
    return shapes


def _with_states(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram | None:
    """The model with a free batch that is the second axis of some inputs.

    Of states, or of all where time comes first, as recurrent networks take them unless told
    otherwise.
    """
    tensors = [t for t in pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor) and t.dim()]
    firsts = (0, 1) if tensors and tensors[0].dim() == 3 else (0,)
    found = (_with_batch_at(first, model, inputs, tensors) for first in firsts if tensors)
    return next((program for program in found if program is not None), None)


def _with_batch_at(
    first: int, model: nn.Module, inputs: tuple[Any, ...], tensors: list[torch.Tensor]
) -> ExportedProgram | None:
    """The model with a free batch, which is that axis of its first input."""
    batch = tensors[0].shape[first]
    axes = [first] + [1 if t.dim() > 1 and t.shape[1] == batch else 0 for t in tensors[1:]]
    if not any(axes) or any(t.shape[axis] != batch for t, axis in zip(tensors, axes, strict=True)):
        return None
    axis_of = {id(tensor): axis for tensor, axis in zip(tensors, axes, strict=True)}
    if batch == 1:
        given = pytree.tree_map(
            lambda t: torch.cat([t, t], axis_of[id(t)]) if id(t) in axis_of else t, inputs
        )
    else:
        given = inputs
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    made = [t for t in pytree.tree_leaves(given) if isinstance(t, torch.Tensor) and t.dim()]
    for tensor, axis in zip(made, axes, strict=True):
        shapes[tensor] = {axis: Dim.AUTO}
    try:
        program = _export(model, given, shapes)
    except Exception:  # it is fixed in the program without, then
        return None
    sizes = [n.meta["val"].shape for n in user_inputs(program) if hasattr(n.meta.get("val"), "dim")]
    known = [fixed_size(size[axis]) for size, axis in zip(filter(len, sizes), axes, strict=False)]
    return program if None in known else None


def _doubled(inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Two samples of the same, where there is one."""
    tensors = [t for t in pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor) and t.dim()]
    if not tensors or any(t.shape[0] != 1 for t in tensors):
        return None
    twice: tuple[Any, ...] = pytree.tree_map(
        lambda t: torch.cat([t, t]) if isinstance(t, torch.Tensor) and t.dim() else t, inputs
    )
    return twice


def user_inputs(program: ExportedProgram) -> list[Node]:
    """The graph inputs that the caller gives."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [
        nodes[spec.arg.name]
        for spec in program.graph_signature.input_specs
        if spec.kind == InputKind.USER_INPUT
    ]


def has_free_batch(program: ExportedProgram, batch_axes: Sequence[int | None] = ()) -> bool:
    """Whether some input may have any number of samples."""
    values = [node.meta.get("val") for node in user_inputs(program)]
    return any(fixed_size(size) is None for size in batch_sizes(values, batch_axes))


def batch_sizes(values: Sequence[Any], batch_axes: Sequence[int | None] = ()) -> list[Any]:
    """How many samples each tensor holds: its first axis, or the one that is given for it."""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    axes = batch_axes or [0 if tensor.dim() else None for tensor in tensors]
    pairs = zip(tensors, axes, strict=False)
    return [tensor.shape[axis] for tensor, axis in pairs if axis is not None]


def export_shaped(
    model: nn.Module, example_inputs: tuple[Any, ...], shapes: tuple[dict[int, Any], ...]
) -> ExportedProgram:
    """Export a module with these free axes, by input, and no others. Raises BncheckError.

    The inputs may be nested as the parameters of the model's forward want them (`*inputs`).
    """
    free = ShapesCollection()  # type: ignore[no-untyped-call]
    for item, axes in zip(pytree.tree_leaves(example_inputs), shapes, strict=False):
        if isinstance(item, torch.Tensor) and axes:
            free[item] = axes
    try:
        return _export(model, example_inputs, free)
    except Exception as error:
        raise _unexportable(error) from None


#: What helps where torch.export says this.
_HINTS = {
    r"<class '[^']*'> in output, which is not a known type": (
        "let its forward return tensors, or register the class of its output with "
        "torch.export.register_dataclass (with a serialized_type_name for a .pt2)"
    ),
    r"in input, which is not a known type|unsupported input type": (
        "give tensors, or register the class with torch.export.register_dataclass"
    ),
    r"PackedParams": "fold and export the model before it is quantized",
    r"Non-recursive torch\.compiler\.disable": (
        "give the module that is wrapped: model.module of DistributedDataParallel"
    ),
    r"should be the same|same dtype|to have the same": (
        "give inputs of the dtype that the model's weights have, or call model.float()"
    ),
}


class NotOneGraphError(BncheckError):
    """A module that torch.export does not take."""


def _unexportable(error: Exception) -> BncheckError:
    """The line of the user's code that stops the export, and what to do about it."""
    where = _user_line(error)
    name = type(error).__name__
    if "DataDependent" in name or "data-dependent" in str(error):
        return NotOneGraphError(
            f"branches on the values of a tensor{where}, so it is not a single graph",
            "write it with torch.where or torch.cond, or name a submodule around it with --part",
        )
    first = next((line for line in str(error).splitlines() if line.strip()), name).strip()
    hints = (hint for sign, hint in _HINTS.items() if re.search(sign, str(error)))
    return NotOneGraphError(
        f"cannot be exported{where} ({name}: {shortened(first, 160)})",
        next(hints, "check --input against the model's forward, and that torch.export accepts it"),
    )


def _user_line(error: Exception) -> str:
    said = [(path, int(n), code) for path, n, _, code in _USER_LINE.findall(str(error))]
    return last_line([*lines_of(traceback.extract_tb(error.__traceback__)), *said])


def lines_of(frames: traceback.StackSummary) -> list[Line]:
    """The lines that these calls stand in."""
    return [(f.filename, f.lineno or 0, f.line) for f in frames if f.line]


def last_line(lines: Sequence[Line]) -> str:
    """Where in the user's code that is: ` at net.py:7 ...`; nothing where none is the user's."""
    found = next((line for line in reversed(lines) if not _is_ours(line[0])), None)
    if found is None:
        return ""
    path, number, code = found
    return f" at {Path(path).name}:{number} `{shortened((code or '').strip(), 80)}`"


def _is_ours(path: str) -> bool:
    return path.startswith((_SITE, _STANDARD, _PACKAGE, "<")) or "site-packages" in path


def refuse_random(program: ExportedProgram) -> None:
    """A program that draws random numbers cannot be compared with anything."""
    for node in program.graph.nodes:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            continue
        if torch.Tag.nondeterministic_seeded in target.tags and _draws(node):
            raise BncheckError(
                f"draws random numbers ({target._schema.name.partition('::')[2]})",
                "call model.eval() before folding",
            )


def _draws(node: Node) -> bool:
    """Whether a call with that tag draws: dropout in eval mode and attention without it do not."""
    call = Arguments(node)
    given = call.defaults | call.given
    switches = [given[name] for name in ("train", "training") if name in given]
    shares = [given[name] for name in ("p", "dropout_p", "dropout") if name in given]
    return all(switches) and not (shares and all(share == 0 for share in shares))
