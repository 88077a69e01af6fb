"""TorchScript archives: tensors from `data.pkl`, eps and momentum from the source in `code/`.

A scripted module keeps its constants as `eps : Final[float] = 1e-05`; a traced one has them only as
arguments of the `torch.batch_norm` call in its forward; a frozen one has lost its modules and holds
the tensors as `CONSTANTS.c0`, `CONSTANTS.c1`... of `constants.pkl`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from bncheck.reading.checkpoint import NormModule, Subtree, as_number
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.pickle_values import Global, Node, Value
from bncheck.reading.tensors import LazyTensor
from bncheck.reading.torch_files import Pickled, read_zip
from bncheck.reading.torch_objects import attributes
from bncheck.reading.tree import Path, dotted, norm_module
from bncheck.reading.zip_archive import ZipArchive

_CLASS: Final = re.compile(rb"^class ([^\s(]+)\(", re.MULTILINE)
_FINAL: Final = re.compile(rb"^  (\w+) : Final\[\w+\] = (\S{1,99})$", re.MULTILINE)
# torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn)
# and torch.instance_norm(..., use_input_stats, momentum, eps, cudnn). The arguments' lengths are
# bounded so that no source can make the search quadratic.
_CALL: Final = re.compile(
    rb"torch\.(?P<op>batch_norm|instance_norm)\([^,]{1,99}, (?P<weight>[^,]{1,99}), "
    rb"(?P<bias>[^,]{1,99}), (?P<running_mean>[^,]{1,99}), (?P<running_var>[^,]{1,99}), "
    rb"(?P<training>True|False), (?P<momentum>[-\d.e]{1,30}), (?P<eps>[-\d.e]{1,30}), \w{4,5}\)"
)
#: How each call begins, and the operations that looking at it may take.
_NEEDLES: Final = (b"torch.batch_norm(", b"torch.instance_norm(", b"\nclass ", b" : Final[")
_LOOKING: Final = 8
_CONSTANT: Final = re.compile(rb"CONSTANTS\.c\d+")
#: What a call takes in memory.
_CALL_BYTES: Final = 1500


def read_torchscript(archive: ZipArchive) -> list[Subtree]:
    """The module, with what a frozen one keeps as constants."""
    source = _Sources(archive)
    module, frozen = _module(read_zip(archive), source), _constants(archive, source)
    tensors = {**module.tensors, **frozen.tensors}
    return [Subtree("", tensors, {**module.modules, **frozen.modules})]


@dataclass(frozen=True, slots=True)
class _Class:
    """What the source of a normalisation layer says."""

    constants: Mapping[str, Value]
    call: Mapping[str, str]
    keeps_flag: bool  # the mode is an attribute and not, as in a traced layer, a constant


@dataclass(frozen=True, slots=True)
class _Code:
    """A file of source: its normalisation layers, how many calls of one it has, and which of these,
    by their place, use constants as statistics.
    """

    classes: Mapping[str, _Class]
    count: int
    calls: Mapping[int, Mapping[str, str]]


class _Sources:
    """The files of `code/`, each read once; of their text nothing is kept."""

    def __init__(self, archive: ZipArchive) -> None:
        self._archive = archive
        self._files: dict[str, _Code] = {}

    def layer(self, kind: Global) -> _Class:
        """What the source of a class says; nothing where the archive does not hold it."""
        classes = self._file(f"code/{kind.module.replace('.', '/')}.py").classes
        return classes.get(kind.name, _Class({}, {}, True))

    def calls(self) -> Iterator[tuple[int, Mapping[str, str]]]:
        """The calls of all files that use constants as statistics, numbered among all calls."""
        before = 0
        for name in self._archive.names:
            if re.fullmatch(r"code/.*\.py", name):
                code = self._file(name)
                yield from ((before + number, call) for number, call in code.calls.items())
                before += code.count

    def _file(self, path: str) -> _Code:
        if path not in self._files:
            text = self._archive.text(path) if path in self._archive else b""
            self._archive.budget.operations.take(_LOOKING * sum(map(text.count, _NEEDLES)))
            self._files[path] = self._code(text)
        return self._files[path]

    def _code(self, text: bytes) -> _Code:
        calls, count = {}, 0
        for count, call in enumerate(_CALL.finditer(text), 1):
            if _CONSTANT.fullmatch(call["running_mean"]):
                self._archive.budget.held.take(_CALL_BYTES)
                calls[count - 1] = _groups(call)
        return _Code(_classes(text), count, calls)


def _classes(text: bytes) -> dict[str, _Class]:
    starts = [*_CLASS.finditer(text)]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    found = {}
    for match, end in zip(starts, ends, strict=False):
        name = match[1].decode("utf-8", "replace")
        if is_norm_class(name):
            found[name] = _class(text[match.start() : end])
    return found


def _class(body: bytes) -> _Class:
    call = _CALL.search(body)
    constants = {name.decode(): _literal(value.decode()) for name, value in _FINAL.findall(body)}
    flag = b"training0" in body or b"bn_training" in body
    return _Class(constants, _groups(call) if call else {}, flag)


def _groups(call: re.Match[bytes]) -> dict[str, str]:
    return {name: text.decode("utf-8", "replace") for name, text in call.groupdict().items()}


def _module(pickled: Pickled, source: _Sources) -> Subtree:
    tensors: dict[str, LazyTensor] = {}
    modules: dict[str, NormModule] = {}
    budget = pickled.budget
    stack: list[tuple[Path, Value]] = [(None, pickled.root)]
    while stack:
        name, node = stack.pop()
        budget.modules.take(1)
        values = attributes(node)
        roles: dict[str, str] = {}
        children: list[tuple[Path, Value]] = []
        for key, value in values.items():
            tensor = pickled.objects.tensor(value)
            if tensor is not None:
                roles[key] = dotted((name, key), budget)
                tensors[roles[key]] = tensor
            elif isinstance(value, Node) and isinstance(value.function, Global):
                children.append(((name, key), value))
        function = node.function if isinstance(node, Node) else None
        if isinstance(function, Global) and is_norm_class(function.name):
            modules[dotted(name, budget)] = _norm_module(function, values, roles, source)
        stack.extend(reversed(children))
    return Subtree("", tensors, modules)


def _norm_module(
    kind: Global, values: Mapping[str, Value], roles: dict[str, str], source: _Sources
) -> NormModule:
    said = source.layer(kind)
    found: dict[str, Value] = {**values, **said.constants}
    if call := said.call:
        found.setdefault("eps", _literal(call["eps"]))
        found.setdefault("momentum", _literal(call["momentum"]))
        if not said.keeps_flag:  # traced: the flag is a constant
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
    for number, call in source.calls() if tensors else ():
        roles = {
            role: call[role]
            for role in ("running_mean", "running_var", "weight", "bias")
            if call[role] in tensors
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
