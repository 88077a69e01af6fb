"""torch.load(weights_only=True), and pickle for arrays: files from the grammar that they accept.

BNCHECK_FUZZ=100000 makes a long run of it, `python -m tests.reading.loaders.test_torch 100000` too.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings

from bncheck.core.errors import BncheckError
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.roles import STATISTICS, split_name
from bncheck.reading.tensors import LazyTensor
from tests.reading.loaders.torch_files import files
from tests.reading.loaders.torch_loader import Loader, Numbers, Part

_EXAMPLES = int(os.environ.get("BNCHECK_FUZZ", "500"))
#: What the reader says of a tensor that it does not read.
UNREAD = ("not read", (), "")


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    loader = Loader()
    yield loader
    loader.close()


def _described(tensor: LazyTensor) -> Numbers:
    try:
        array = tensor.read()
    except BncheckError:
        return UNREAD
    return array.dtype.name, array.shape, array.tobytes().hex()


def _statistics(tensors: Mapping[str, Numbers]) -> dict[str, Numbers]:
    return {n: v for n, v in tensors.items() if split_name(n)[1] in STATISTICS}


def read(path: Path) -> list[Part] | None:
    """All parts that bncheck names, the chosen one first; None where it refuses the file."""
    try:
        checkpoint = open_checkpoint(path)
    except BncheckError:
        return None
    parts = [(checkpoint.key, checkpoint.tensors.lazy)]
    parts += [(tree.path, tree.tensors) for tree in checkpoint.alternatives]
    return [
        Part(frozenset([key]), {name: _described(tensor) for name, tensor in tensors.items()})
        for key, tensors in parts
    ]


def agree(seen: Part, found: Part) -> bool:
    """Whether a part that bncheck names is one of torch's, with the numbers of torch or none."""
    if not seen.paths <= found.paths:
        return False
    mine, theirs = _statistics(seen.tensors), _statistics(found.tensors)
    return mine.keys() == theirs.keys() and all(
        numbers in (UNREAD, theirs[name]) for name, numbers in mine.items()
    )


def compare(path: Path, loader: Loader) -> str:
    """What became of a file; raises AssertionError where reader and loader differ."""
    mine = read(path)
    theirs = loader.load(path)
    if mine is None or theirs is None:
        return "refused" if theirs is not None else "torch refuses"
    note(f"bncheck: {mine}")
    note(f"torch: {theirs}")
    for part in mine:
        if _statistics(part.tensors):
            assert any(agree(part, other) for other in theirs), "bncheck reads what is not there"
    for other in theirs:
        # An unread part of a file with nothing else is a refusal when a layer is made of it.
        if any(split_name(name)[1] == "running_mean" for name in other.tensors):
            assert any(agree(part, other) for part in mine), "bncheck does not name what is there"
    read_all = all(v is not UNREAD for v in _statistics(mine[0].tensors).values())
    return "the same" if read_all else "partly unread"


def property_of(
    loader: Loader, folder: Path, seen: Counter[str], examples: int
) -> Callable[[], None]:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize="BNCHECK_FUZZ" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(write=files())
    def holds(write: Callable[[Path], Path]) -> None:
        seen[compare(write(folder), loader)] += 1

    return holds


def test_reader_and_loader_agree(loader: Loader, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    property_of(loader, tmp_path, seen, _EXAMPLES)()
    # Otherwise it would prove little.
    assert seen["the same"] > _EXAMPLES / 10, seen
    assert seen["refused"] + seen["partly unread"] > _EXAMPLES / 50, seen


if __name__ == "__main__":
    os.environ["BNCHECK_FUZZ"] = sys.argv[1]
    counted: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        property_of(Loader(), Path(scratch), counted, int(sys.argv[1]))()
    print(dict(counted))  # noqa: T201
