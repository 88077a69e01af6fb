"""What a file calls the tensors of a model: prefixes, wrappers, and names left out for others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bncheck.core.wrappers import WRAPPERS, without


@dataclass(frozen=True)
class FileNames:
    """The file's name of each tensor, by the model's; `prefix` is what stands before most."""

    tensors: Mapping[str, str]
    prefix: str = ""

    def layers(self) -> dict[str, str]:
        """The file's name of each layer that is called otherwise than prefix and model say."""
        owners = {_owner(ours): _owner(theirs) for ours, theirs in self.tensors.items()}
        alike = {self.prefix + ours for ours in owners}  # of one module's two names, the file's own
        return {ours: name for ours, name in owners.items() if name not in alike}


def file_names(file: Iterable[str], aliases: Mapping[str, str], model: Sequence[str]) -> FileNames:
    """The names of a file matched with a model's, by whichever way most of the model's are found.

    First as they are, less a prefix; then without wrappers on both sides, where that leaves all
    names different. `aliases` are names that the file leaves out for others of the same tensor.
    """
    actual = {name: name for name in file}
    names = {**{alias: name for alias, name in aliases.items() if name in actual}, **actual}
    best = _matched(names, {name: name for name in model})
    wanted = set(model)
    if not wanted <= best.tensors.keys():
        bare, bare_model = _bare(names), {without(name): name for name in model}
        if len(bare) == len(names) and len(bare_model) == len(wanted):
            best = max(best, _matched(bare, bare_model), key=lambda found: _covered(found, wanted))
    return FileNames(
        {
            ours: theirs
            for ours, theirs in best.tensors.items()
            if ours in wanted or theirs not in aliases.values()
        },
        best.prefix,
    )


def matching_prefix(file: Sequence[str], model: Sequence[str]) -> str:
    """What has to be stripped from the file's names so that most of the model's are among them."""
    wanted = set(model)
    starts = {""}
    for name in file:
        starts |= {name[: -len(own)] for own in model[:1] if name.endswith(f".{own}")}
        first = name.partition(".")[0]
        starts |= {f"{first}."} if first in WRAPPERS else set()

    def found(prefix: str) -> int:
        size = len(prefix)
        return sum(name[size:] in wanted for name in file if name.startswith(prefix))

    return max(sorted(starts), key=lambda prefix: (found(prefix), -len(prefix)))


def _matched(file: Mapping[str, str], model: Mapping[str, str]) -> FileNames:
    """Both by the names to compare; a name that the model lacks stays as it is."""
    prefix = matching_prefix(list(file), list(model))
    cut = len(prefix)
    rest = {name[cut:]: actual for name, actual in file.items() if name.startswith(prefix)}
    return FileNames({model.get(name, name): actual for name, actual in rest.items()}, prefix)


def _covered(found: FileNames, wanted: set[str]) -> int:
    return len(wanted & found.tensors.keys())


def _bare(names: Mapping[str, str]) -> dict[str, str]:
    return {without(name): actual for name, actual in names.items()}


def _owner(name: str) -> str:
    return name.rpartition(".")[0]
