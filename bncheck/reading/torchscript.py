"""TorchScript archives: tensors from `data.pkl`, eps and momentum from the source in `code/`.

A scripted module keeps its constants as `eps : Final[float] = 1e-05`; a traced one has them only as
arguments of the `torch.batch_norm` call in its forward; a frozen one has lost its modules and holds
the tensors as `CONSTANTS.c0`, `CONSTANTS.c1`... of `constants.pkl`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from bncheck.reading.checkpoint import NormModule, Subtree, as_number
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.pickle_values import Global, Node, Value
from bncheck.reading.tensors import LazyTensor
from bncheck.reading.torch_files import Pickled, read_zip
from bncheck.reading.torch_objects import attributes
from bncheck.reading.tree import Budget, Path, norm_module
from bncheck.reading.zip_archive import ZipArchive

_CLASS: Final = re.compile(r"^class (\w+)\(", re.MULTILINE)
_FINAL: Final = re.compile(r"^  (\w+) : Final\[\w+\] = (\S+)$", re.MULTILINE)
# torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn)
# and torch.instance_norm(..., use_input_stats, momentum, eps, cudnn). The arguments' lengths are
# bounded so that no source can make the search quadratic.
_CALL: Final = re.compile(
    r"torch\.(?P<op>batch_norm|instance_norm)\([^,]{1,99}, (?P<weight>[^,]{1,99}), "
    r"(?P<bias>[^,]{1,99}), (?P<running_mean>[^,]{1,99}), (?P<running_var>[^,]{1,99}), "
    r"(?P<training>True|False), (?P<momentum>[-\d.e]{1,30}), (?P<eps>[-\d.e]{1,30}), \w{4,5}\)"
)
_CONSTANT: Final = re.compile(r"CONSTANTS\.c(\d+)")


def read_torchscript(archive: ZipArchive) -> list[Subtree]:
    """The module, with what a frozen one keeps as constants."""
    source = _Sources(archive)
    module, frozen = _module(read_zip(archive), source), _constants(archive, source)
    tensors = {**module.tensors, **frozen.tensors}
    return [Subtree("", tensors, {**module.modules, **frozen.modules})]


class _Sources:
    """The classes of `code/`, each file parsed once."""

    def __init__(self, archive: ZipArchive) -> None:
        self._archive = archive
        self._classes: dict[str, dict[str, str]] = {}

    def body(self, kind: Global) -> str:
        """The source of a class, or "" where the archive does not hold it."""
        path = f"code/{kind.module.replace('.', '/')}.py"
        if path not in self._classes:
            text = self._archive.text(path) if path in self._archive else ""
            starts = [*_CLASS.finditer(text)]
            ends = [match.start() for match in starts[1:]] + [len(text)]
            self._classes[path] = {
                match[1]: text[match.start() : end]
                for match, end in zip(starts, ends, strict=False)
            }
        return self._classes[path].get(kind.name, "")

    def everything(self) -> list[str]:
        names = [name for name in self._archive.names if re.fullmatch(r"code/.*\.py", name)]
        return [self._archive.text(name) for name in names]


def _module(pickled: Pickled, source: _Sources) -> Subtree:
    tensors: dict[str, LazyTensor] = {}
    modules: dict[str, NormModule] = {}
    budget = Budget()
    stack: list[tuple[Path, Value]] = [(None, pickled.root)]
    while stack:
        name, node = stack.pop()
        budget.visit()
        values = attributes(node)
        roles: dict[str, str] = {}
        children: list[tuple[Path, Value]] = []
        for key, value in values.items():
            tensor = pickled.objects.tensor(value)
            if tensor is not None:
                roles[key] = budget.name((name, key))
                tensors[roles[key]] = tensor
            elif isinstance(value, Node) and isinstance(value.function, Global):
                children.append(((name, key), value))
        function = node.function if isinstance(node, Node) else None
        if isinstance(function, Global) and is_norm_class(function.name):
            modules[budget.name(name)] = _norm_module(function, values, roles, source)
        stack.extend(reversed(children))
    return Subtree("", tensors, modules)


def _norm_module(
    kind: Global, values: Mapping[str, Value], roles: dict[str, str], source: _Sources
) -> NormModule:
    body = source.body(kind)
    found: dict[str, Value] = {**values}
    found.update((name, _literal(text)) for name, text in _FINAL.findall(body))
    call = _CALL.search(body)
    if call:
        found.setdefault("eps", _literal(call["eps"]))
        found.setdefault("momentum", _literal(call["momentum"]))
        if "training0" not in body and "bn_training" not in body:  # traced: the flag is a constant
            uses_batch = call["training"] == "True"
            found["training"] = uses_batch and call["running_mean"] != "None"
            found["track_running_stats"] = call["running_mean"] != "None"
    return norm_module(kind.name, found, roles)


def _literal(text: str) -> Value:
    try:
        return {"True": True, "False": False}[text] if text in ("True", "False") else float(text)
    except ValueError:
        return None


def _constants(archive: ZipArchive, source: _Sources) -> Subtree:
    """The tensors of a frozen module, and the calls that use them as statistics."""
    pickled = read_zip(archive, "constants.pkl", "constants/")
    values = pickled.root if isinstance(pickled.root, (tuple, list)) else ()
    tensors: dict[str, LazyTensor] = {}
    for index, value in enumerate(values):
        if (tensor := pickled.objects.tensor(value)) is not None:
            tensors[f"CONSTANTS.c{index}"] = tensor
    modules = {}
    for text in source.everything() if tensors else ():
        for number, call in enumerate(_CALL.finditer(text)):
            roles = {
                role: call[role]
                for role in ("running_mean", "running_var", "weight", "bias")
                if _CONSTANT.fullmatch(call[role]) and call[role] in tensors
            }
            if "running_mean" in roles:
                modules[f"{call['op']}_{number}"] = NormModule(
                    call["op"],
                    roles,
                    eps=as_number(_literal(call["eps"])),
                    momentum=as_number(_literal(call["momentum"])),
                    momentum_known=True,
                    training=call["training"] == "True",
                    tracks_statistics=True,
                )
    # A traced module keeps constants of its own, which are nobody's statistics.
    return Subtree("", tensors if modules else {}, modules)
