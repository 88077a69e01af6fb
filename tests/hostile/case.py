"""What a case is, where cases are kept, and what builds the files of most of them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tests.zoo import states as zoo

Build = Callable[[Path], Path]

READ, FOUND, REFUSED = frozenset({0}), frozenset({1}), frozenset({2})
#: Harmless either way: what counts is that nothing worse happens.
ANY = READ | FOUND | REFUSED


@dataclass(frozen=True)
class Case:
    """One file, what it is, and the exit codes that are right for it.

    `weights`: the layer `bn` of zoo.statistics() must be reported with the right numbers.
    `options` are given to `bncheck inspect`, which is run in the case's folder; `door` is the
    command line in front of it, empty where any will do. A `large` one, made of `size.many`, goes
    to the limits, and the suite runs a tenth of it. A `long` one takes seconds, and is run by
    `python -m tests.hostile` alone.
    """

    what: str
    codes: frozenset[int]
    build: Build
    weights: bool = False
    options: tuple[str, ...] = ()
    door: tuple[str, ...] = ()
    long: bool = False
    large: bool = False


CASES: dict[str, Case] = {}


def add(
    name: str,
    codes: frozenset[int],
    what: str,
    build: Build,
    weights: bool = False,
    options: tuple[str, ...] = (),
    door: tuple[str, ...] = (),
    long: bool = False,
) -> None:
    assert name not in CASES, name
    CASES[name] = Case(what, codes, build, weights, options, door, long)


def case(codes: frozenset[int], what: str, weights: bool = False) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        add(build.__name__.replace("_", "-"), codes, what, build, weights)
        return build

    return register


def mark_long(*names: str) -> None:
    for name in names:
        CASES[name] = replace(CASES[name], long=True)


def mark_large(*names: str) -> None:
    for name in names:
        CASES[name] = replace(CASES[name], large=True)


def file(folder: Path, data: bytes, name: str = "model.pt") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def saved(folder: Path, content: object = None, legacy: bool = False) -> Path:
    path = folder / "saved.pt"
    content = zoo.statistics() if content is None else content
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def records_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(
    path: Path, records: Mapping[str, bytes], deflate: Callable[[str], bool] = lambda record: False
) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for record, data in records.items():
            how = zipfile.ZIP_DEFLATED if deflate(record) else zipfile.ZIP_STORED
            archive.writestr(record, data, how, compresslevel=1)
    return path
