"""TorchScript archives: tensors from `data.pkl`, eps and momentum from the source in `code/`.

A scripted module keeps its constants as `eps : Final[float] = 1e-05`; a traced one has them only as
arguments of the `torch.batch_norm` call in its forward; a frozen one has lost its modules and holds
the tensors as `CONSTANTS.c0`, `CONSTANTS.c1`... of `constants.pkl`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from functools import cache, partial

from bncheck.core.errors import BncheckError
from bncheck.reading.checkpoint import NormModule, Subtree, as_number
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.listing import Listing
from bncheck.reading.nodes import attributes
from bncheck.reading.pickle_values import Global, Node, Value
from bncheck.reading.roles import AFFINE, STATISTICS, split_name
from bncheck.reading.tensors import LazyTensor, LoadedTensor
from bncheck.reading.torch_files import Pickled, read_zip
from bncheck.reading.torchscript_calls import refuse_unfollowed
from bncheck.reading.torchscript_code import Sources, literal
from bncheck.reading.torchscript_forward import listed_forward
from bncheck.reading.torchscript_states import (
    rebuilt_storages,
    refuse_rebuilt,
    shared_with_statistics,
    storages_of,
)
from bncheck.reading.torchscript_uses import uses_in
from bncheck.reading.torchscript_writes import only_norms_normalise, refuse_written
from bncheck.reading.tree import Path, dotted, norm_module
from bncheck.reading.zip_archive import ZipArchive


def read_torchscript(archive: ZipArchive) -> list[Subtree]:
    """The module, with what a frozen one keeps as constants."""
    _refuse_other_layouts(archive)
    source = Sources(archive)
    refuse_unfollowed(source)
    pickled = read_zip(archive)
    refuse_written(source, shared_with_statistics(pickled.root))
    rebuilt = rebuilt_storages(pickled.root, source)
    listed = cache(partial(_listed, pickled, source))
    constants = _constant_tensors(archive)
    module = _as_used(_module(pickled, source, rebuilt), listed, constants, source)
    frozen = _frozen(constants, source)
    tensors = {**module.tensors, **frozen.tensors}
    modules = {**module.modules, **frozen.modules}
    return [Subtree("", tensors, modules, listing=listed)]


def _listed(pickled: Pickled, source: Sources, path: str = "") -> Listing:
    """The calls of the forward of the module at a path."""
    node = pickled.root
    for name in path.split(".") if path else ():
        node = attributes(node).get(name)
    if not isinstance(node, Node):
        return Listing((), whole=False)
    return listed_forward(node, pickled.objects, source, f"{path}." if path else "")


def _as_used(
    tree: Subtree,
    listed: Callable[..., Listing],
    constants: Mapping[str, LazyTensor],
    source: Sources,
) -> Subtree:
    """The module, its norms with the mode and eps that its code calls batch_norm with."""
    names = map(split_name, tree.tensors)
    owners = {owner for owner, own in names if STATISTICS.get(own) == "running_var"}
    if not owners and not constants:
        return tree
    numbers = _numbers(constants)
    try:
        whole = listed()
    except BncheckError:  # so large a model is looked at norm by norm, where that says all
        if not only_norms_normalise(source):
            raise
        whole = Listing((), whole=False)
    found = uses_in(whole, owners, numbers)
    for owner in owners - found.normalises - found.in_training:
        found.add(uses_in(listed(owner), {owner}, numbers))
    modules = dict(tree.modules)
    for owner in found.in_training - modules.keys():
        roles = {
            own: dotted(((None, owner), own) if owner else (None, own), source.budget)
            for own in (*STATISTICS, *AFFINE)
        }
        held = {role: name for role, name in roles.items() if name in tree.tensors}
        modules[owner] = NormModule("batch_norm", held, tracks_statistics=True)
    for owner in modules.keys() & owners:
        modules[owner] = replace(
            modules[owner],
            training=owner in found.in_training or modules[owner].training,
            eps=found.eps.get(owner, modules[owner].eps),
        )
    return replace(tree, modules=modules)


def _refuse_other_layouts(archive: ZipArchive) -> None:
    """Refuse what torch.jit.load reads otherwise than torch.load reads data.pkl."""
    if "model.json" in archive:
        raise BncheckError(
            "holds a model.json, which makes torch.jit.load read it as a file of PyTorch 1.0",
            "do not trust it; save it again with torch.jit.save",
        )
    if "byteorder" in archive and archive.read("byteorder", 64) != b"little":
        raise BncheckError(
            "says that its numbers are big-endian, which torch.jit.load ignores",
            "save it again with torch.jit.save",
        )


def _module(pickled: Pickled, source: Sources, rebuilt: Set[str]) -> Subtree:
    tensors: dict[str, LazyTensor] = {}
    modules: dict[str, NormModule] = {}
    budget = pickled.budget
    stack: list[tuple[Path, Value]] = [(None, pickled.root)]
    while stack:
        name, node = stack.pop()
        budget.modules.take(1)
        values = attributes(node)
        budget.operations.take(len(values))  # which modules may share
        roles: dict[str, str] = {}
        children: list[tuple[Path, Value]] = []
        for key, value in values.items():
            tensor = pickled.objects.tensor(value)
            if tensor is not None:
                roles[key] = dotted((name, key), budget)
                if rebuilt and storages_of(value) & rebuilt:
                    tensor = LoadedTensor(refuse_rebuilt)
                tensors[roles[key]] = tensor
            elif isinstance(value, Node) and isinstance(value.function, Global):
                children.append(((name, key), value))
        function = node.function if isinstance(node, Node) else None
        if isinstance(function, Global) and is_norm_class(function.name):
            modules[dotted(name, budget)] = _norm_module(function, values, roles, source)
        stack.extend(reversed(children))
    return Subtree("", tensors, modules)


def _norm_module(
    kind: Global, values: Mapping[str, Value], roles: dict[str, str], source: Sources
) -> NormModule:
    said = source.layer(kind)
    found: dict[str, Value] = {**values, **said.constants}
    call = said.call
    if call and call.training in ("True", "False"):
        found.setdefault("eps", literal(call.eps))
        found.setdefault("momentum", literal(call.momentum))
        if said.fixed_mode:
            tracks = call.arguments["running_mean"] != "None"
            found["training"] = call.training == "True" and tracks
            found["track_running_stats"] = tracks
    return norm_module(kind.name, found, roles)


def _constant_tensors(archive: ZipArchive) -> dict[str, LazyTensor]:
    """The tensors of constants.pkl."""
    pickled = read_zip(archive, "constants.pkl", "constants/")
    values = pickled.root if isinstance(pickled.root, (tuple, list)) else ()
    found = ((f"CONSTANTS.c{n}", pickled.objects.tensor(v)) for n, v in enumerate(values))
    return {name: tensor for name, tensor in found if tensor is not None}


def _numbers(constants: Mapping[str, LazyTensor]) -> dict[str, float]:
    """Those of a single number."""
    return {name: float(tensor.read()) for name, tensor in constants.items() if tensor.shape == ()}


def _frozen(tensors: dict[str, LazyTensor], source: Sources) -> Subtree:
    """The tensors of a frozen module, and the calls that use them as statistics."""
    modules: dict[str, NormModule] = {}
    budget = source.budget
    calls = (call for text in source.everything() for call in source.calls(text))
    for number, call in enumerate(calls) if tensors else ():
        roles = {role: name for role, name in call.arguments.items() if name in tensors}
        if roles.keys() & {"running_mean", "running_var"}:
            budget.modules.take(1)
            modules[f"{call.operator}_{number}"] = NormModule(
                call.operator,
                roles,
                eps=as_number(literal(call.eps)),
                momentum=as_number(literal(call.momentum)),
                momentum_known=True,
                training=call.training == "True",
                tracks_statistics=True,
            )
    # A traced module keeps constants of its own, which are not statistics.
    return Subtree("", tensors if modules else {}, modules)
