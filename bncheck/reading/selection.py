"""Which of the subtrees in a file is the model."""

from __future__ import annotations

from collections.abc import Sequence

from bncheck.core.errors import BncheckError
from bncheck.core.words import nearest
from bncheck.core.wrappers import AROUND
from bncheck.reading.checkpoint import NormModule, Subtree
from bncheck.reading.tensors import LazyTensor

_AVERAGES = ("ema", "swa", "averag", "shadow", "teacher", "best")
_MOST_WRAPPERS = 4


def choose(subtrees: Sequence[Subtree], key: str | None) -> Subtree:
    """The subtree at `key`; without one, that which the format's loader takes, or that with the
    most running statistics.

    Of several with equally many, averaged weights come last and the file's order decides.
    Raises BncheckError for a key that is not there.
    """
    if key is not None:
        return _at_key(subtrees, key)
    if not subtrees:
        return Subtree("", {})
    if len(subtrees) == 1:
        return subtrees[0]
    return min(
        subtrees,
        key=lambda tree: (
            not tree.main,
            -tree.statistics,
            _is_average(tree.path),
            -len(tree.tensors),
        ),
    )


def alternatives(subtrees: Sequence[Subtree], chosen: Subtree) -> tuple[Subtree, ...]:
    """The other subtrees that hold norms to judge, those below the chosen one among them.

    A key that is not itself a subtree takes the tensors of all that are below it.
    """
    others = [tree for tree in subtrees if tree is not chosen]
    taken = {id(tensor) for tensor in chosen.tensors.values()} if others else set()
    return tuple(
        tree
        for tree in others
        if tree.holds_norms and not taken.issuperset(map(id, tree.tensors.values()))
    )


def shared_prefix(names: Sequence[str]) -> str:
    """What DataParallel, torch.compile and a wrapping module put before every name."""
    names = [name for name in names if name != "n_averaged"]
    prefix = _wrapped(names, "")
    first = names[0][len(prefix) :].partition(".")[0] if names else ""
    if first and not first.isdigit() and _all_deeper(names, f"{prefix}{first}."):
        prefix = _wrapped(names, f"{prefix}{first}.")
    return prefix


def _wrapped(names: Sequence[str], prefix: str) -> str:
    """The prefix, and the wrappers that follow it in every name."""
    for _ in range(_MOST_WRAPPERS):
        word = names[0][len(prefix) :].partition(".")[0] if names else ""
        if word not in AROUND or not _all_start(names, f"{prefix}{word}."):
            break
        prefix += f"{word}."
    return prefix


def _all_start(names: Sequence[str], prefix: str) -> bool:
    return bool(names) and all(name.startswith(prefix) for name in names)


def _all_deeper(names: Sequence[str], prefix: str) -> bool:
    # "bn.weight", "bn.bias": that is the one layer of the file, not a wrapper.
    return _all_start(names, prefix) and all("." in name[len(prefix) :] for name in names)


def _is_average(path: str) -> bool:
    return any(word in path.lower() for word in _AVERAGES)


def _is_of_an_optimizer(path: str) -> bool:
    return "optim" in path.lower()


def _at_key(subtrees: Sequence[Subtree], key: str) -> Subtree:
    exact = next((tree for tree in subtrees if tree.path == key), None)
    if exact is not None:
        return exact
    tensors: dict[str, LazyTensor] = {}
    modules: dict[str, NormModule] = {}
    for tree in subtrees:
        for name, tensor in tree.tensors.items():
            if (rest := _below(key, tree.path, name)) is not None:
                tensors[rest] = tensor
        for name, module in tree.modules.items():
            if (rest := _below(key, tree.path, name)) is not None:
                modules[rest] = _moved(module, key, tree.path)
    if not tensors:
        names = by_interest(subtrees)
        near = nearest(key, names, 0.4)
        models = [name for name in names if not _is_of_an_optimizer(name)]
        there = ", ".join((models or names)[:8])
        if near:
            hint = f"did you mean {near}?"
        else:
            hint = f"choose from {there}" if there else "leave --key out: the file has no parts"
        raise BncheckError(f"holds nothing under the key {key[:60]!r}", hint)
    return Subtree(key, tensors, modules)


def by_interest(subtrees: Sequence[Subtree]) -> list[str]:
    """The keys that there are: models first, what optimizers keep last."""

    def rank(tree: Subtree) -> tuple[bool, bool, bool]:
        return _is_of_an_optimizer(tree.path), not tree.statistics, _is_average(tree.path)

    return list(dict.fromkeys(tree.path for tree in sorted(subtrees, key=rank) if tree.path))


def _below(key: str, path: str, name: str) -> str | None:
    full = f"{path}.{name}" if path else name
    return full[len(key) + 1 :] if full.startswith(f"{key}.") else None


def _moved(module: NormModule, key: str, path: str) -> NormModule:
    roles = {
        role: rest
        for role, name in module.tensors.items()
        if (rest := _below(key, path, name)) is not None
    }
    return NormModule(
        module.class_name,
        roles,
        module.eps,
        module.momentum,
        module.momentum_known,
        module.training,
        module.tracks_statistics,
    )
