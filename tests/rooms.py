"""The rooms of the package and the imports between them: `python -m tests.rooms` prints both.

A room imports only rooms that come before it in ROOMS. Imports under TYPE_CHECKING count as well.
"""

from __future__ import annotations

import ast
import graphlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

PACKAGE: Final = Path(__file__).parents[1] / "bncheck"

#: From the ground up: docs/architecture.md.
ROOMS: Final = (
    "core", "reading", "writing", "layers", "data", "graph", "measuring", "subject", "runtime",
    "series", "rules", "policy", "inspecting", "recalibrating", "drifting", "recording",
    "surveying", "folding", "shipping", "gate", "reporting", "cli",
)  # fmt: skip
#: Modules outside the rooms: _version is below all rooms, the others are above.
DOOR: Final = ("__init__", "__main__", "_version", "testing")
#: Where functions may import torch, and where modules may import it at the top.
TORCH: Final = (
    "data", "graph/program", "measuring", "subject", "series", "recalibrating", "recording",
    "surveying", "folding", "shipping",
)  # fmt: skip
TORCH_AT_ONCE: Final = ("graph/program", "folding/program", "shipping/in_memory.py")


class Import(NamedTuple):
    """An import statement. `at_once`: it runs when its module is imported."""

    file: str
    module: str
    at_once: bool
    for_types: bool

    @property
    def rooms(self) -> tuple[str, str]:
        """The importing and the imported room; a module outside the rooms counts as its own."""
        words = self.module.split(".")
        return Path(self.file).parts[0].removesuffix(".py"), words[1] if words[1:] else "__init__"


def imports(package: Path = PACKAGE) -> Iterator[Import]:
    """Every import of every module."""
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        yield from _inside(ast.parse(path.read_text()), name, at_once=True, for_types=False)


def _inside(node: ast.AST, file: str, *, at_once: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom):
            yield Import(file, child.module or "", at_once, for_types)
        elif isinstance(child, ast.Import):
            yield from (Import(file, alias.name, at_once, for_types) for alias in child.names)
        types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        inside = isinstance(child, (ast.FunctionDef, ast.Lambda))
        yield from _inside(
            child, file, at_once=at_once and not inside, for_types=for_types or types
        )


def arrows(found: list[Import]) -> Counter[tuple[str, str]]:
    """How many imports lead from one room to another."""
    own = [i.rooms for i in found if i.module.split(".")[0] == "bncheck"]
    return Counter((start, end) for start, end in own if start != end)


def upward(found: list[Import]) -> list[tuple[str, str]]:
    """Arrows from a room to one that is not below it."""
    order = {"_version": -1, **{room: place for place, room in enumerate(ROOMS)}}
    top = len(ROOMS)
    return [(a, b) for a, b in arrows(found) if order.get(b, top) >= order.get(a, top + 1)]


def cycle(package: Path = PACKAGE) -> list[str]:
    """Modules that import each other in a circle; empty if there are none."""
    names = {_name(path, package): path for path in package.rglob("*.py")}
    graph = {
        name: {near for i in _named(path) if (near := _nearest(i, names)) != name}
        for name, path in names.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _named(path: Path) -> Iterator[str]:
    """The modules, and names in modules, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _nearest(name: str, names: dict[str, Path]) -> str:
    """The module that the name is or belongs to; the name itself if it is not ours."""
    owner = name.rpartition(".")[0]
    return name if name in names or owner not in names else owner


def strayed_torch(found: list[Import]) -> list[Import]:
    """Imports of torch outside the places that may need it."""
    return [
        i
        for i in found
        if i.module.split(".")[0] == "torch"
        and not i.for_types
        and not i.file.startswith(TORCH_AT_ONCE if i.at_once else TORCH)
    ]


def main() -> None:
    """Print the rooms from the top down, each with the rooms that it imports."""
    found = list(imports())
    counted = arrows(found)
    for room in reversed(ROOMS):
        used = [f"{end} {counted[room, end]}" for end in ROOMS if counted[room, end]]
        print(f"{room:14} -> {', '.join(used) or 'nothing'}")  # noqa: T201
    faults = {"upward": upward(found), "cycle": cycle(), "torch astray": strayed_torch(found)}
    for word, bad in faults.items():
        print(f"{word}: {bad or 'none'}")  # noqa: T201


if __name__ == "__main__":
    main()
