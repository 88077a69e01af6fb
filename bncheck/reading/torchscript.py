"""TorchScript archives: tensors from `data.pkl`, eps and momentum from the source in `code/`.

A scripted module keeps its constants as `eps : Final[float] = 1e-05`; a traced one has them only as
arguments of the `torch.batch_norm` call in its forward; a frozen one has lost its modules and holds
the tensors as `CONSTANTS.c0`, `CONSTANTS.c1`... of `constants.pkl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from bncheck.core.errors import BncheckError
from bncheck.reading.checkpoint import NormModule, Subtree
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.listing import CONSTANTS, Listing
from bncheck.reading.nodes import attributes
from bncheck.reading.pickle_values import Global, Node, Value
from bncheck.reading.roles import AFFINE, STATISTICS, split_name
from bncheck.reading.statistic_uses import Statistics, Uses
from bncheck.reading.tensors import LazyTensor, LoadedTensor
from bncheck.reading.torch_files import Pickled, read_zip
from bncheck.reading.torchscript_code import Sources, literal
from bncheck.reading.torchscript_forward import listed_forward
from bncheck.reading.torchscript_functions import TooMuchCodeError
from bncheck.reading.torchscript_states import (
    has_other_names,
    rebuilt_storages,
    refuse_rebuilt,
    storages_of,
)
from bncheck.reading.tree import Path, dotted, norm_module
from bncheck.reading.zip_archive import ZipArchive


def read_torchscript(archive: ZipArchive) -> list[Subtree]:
    """The module, with what a frozen one keeps as constants."""
    _refuse_other_layouts(archive)
    source = Sources(archive)
    pickled = read_zip(archive)
    rebuilt = rebuilt_storages(pickled.root, source)
    constants = _constant_tensors(archive)
    module, storages = _module(pickled, source, rebuilt)
    names = map(split_name, module.tensors)
    owners = {owner for owner, own in names if STATISTICS.get(own) == "running_var"}
    followed = _Followed(pickled, source, owners, _numbers(constants), storages)
    if owners or source.speaking() or (constants and not module.tensors):
        module = _as_used(module, followed)
    frozen = followed.uses.frozen
    if followed.uses.takes_roots and not frozen and not module.tensors:
        raise BncheckError(
            "has frozen code that normalises by hand, and its statistics have no names",
            "inspect the module as it is before torch.jit.freeze",
        )
    # A traced module keeps constants of its own, not statistics; a frozen one its weights.
    weights = constants if frozen or not module.tensors else {}
    tensors = {**module.tensors, **weights}
    return [Subtree("", tensors, {**module.modules, **frozen}, listing=followed.listing)]


@dataclass
class _Followed:
    """What the code does: the calls of its forward, and what they do with statistics."""

    pickled: Pickled
    source: Sources
    owners: Set[str]
    numbers: Mapping[str, float]
    storages: Mapping[str, Set[str]]
    uses: Uses = field(default_factory=Uses)
    _whole: Listing | None = None

    def listing(self) -> Listing:
        """The calls of the module's forward. Raises BncheckError where they are too many."""
        if self._whole is None:
            self._whole = self.follow(self.owners)
        return self._whole

    def follow(self, owners: Set[str], path: str = "") -> Listing:
        """Those of the module at a path, as if it were called, with the statistics of some."""
        node = self.pickled.root
        for name in path.split(".") if path else ():
            node = attributes(node).get(name)
        if not isinstance(node, Node):
            return Listing((), whole=False)
        statistics = Statistics(owners, self.numbers, self.storages, self.uses)
        prefix = f"{path}." if path else ""
        listing = listed_forward(node, self.pickled.objects, self.source, prefix, statistics)
        statistics.finish(listing.whole)
        return listing


def _as_used(tree: Subtree, followed: _Followed) -> Subtree:
    """The module, its norms with the mode and eps that its code calls batch_norm with."""
    source, owners, found = followed.source, followed.owners, followed.uses
    called = False
    try:
        called = followed.listing().whole
    except TooMuchCodeError:  # so large a model is looked at norm by norm, where that says all
        kinds = source.speaking()
        norms = all(isinstance(kind, Global) and is_norm_class(kind.name) for kind in kinds)
        if not norms or has_other_names(followed.pickled.root, followed.storages):
            raise
    used = found.normalises | found.in_training
    for owner in () if called else owners - used:
        followed.follow({owner}, owner)
    groups = [{split_name(name)[0] for name in names} for names in followed.storages.values()]
    used = used.union(*(group for group in groups if group & used))  # by another name of it
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
            unused=called and owner not in used,
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


def _module(
    pickled: Pickled, source: Sources, rebuilt: Set[str]
) -> tuple[Subtree, Mapping[str, Set[str]]]:
    """The module, and the statistics that lie in each storage."""
    storages: dict[str, set[str]] = {}
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
                for storage in storages_of(value) if key in STATISTICS else ():
                    storages.setdefault(storage, set()).add(roles[key])
            elif isinstance(value, Node) and isinstance(value.function, Global):
                children.append(((name, key), value))
        function = node.function if isinstance(node, Node) else None
        if isinstance(function, Global) and is_norm_class(function.name):
            modules[dotted(name, budget)] = _norm_module(function, values, roles, source)
        stack.extend(reversed(children))
    return Subtree("", tensors, modules), storages


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
            tracks = call.mean != "None"
            found["training"] = call.training == "True" and tracks
            found["track_running_stats"] = tracks
    return norm_module(kind.name, found, roles)


def _constant_tensors(archive: ZipArchive) -> dict[str, LazyTensor]:
    """The tensors of constants.pkl."""
    pickled = read_zip(archive, "constants.pkl", "constants/")
    values = pickled.root if isinstance(pickled.root, (tuple, list)) else ()
    found = ((f"{CONSTANTS}c{n}", pickled.objects.tensor(v)) for n, v in enumerate(values))
    return {name: tensor for name, tensor in found if tensor is not None}


def _numbers(constants: Mapping[str, LazyTensor]) -> dict[str, float]:
    """Those of a single number."""
    return {name: float(tensor.read()) for name, tensor in constants.items() if tensor.shape == ()}
