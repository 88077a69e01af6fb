"""Random bytes and damaged copies of good files: nothing but BncheckError ever comes out."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bncheck.core.errors import BncheckError
from bncheck.layers.norm_layer import Assumptions, find_layers
from bncheck.reading.opening import open_checkpoint
from tests.zoo.registry import BUILDERS

_MAX_EXAMPLES = int(os.environ.get("BNCHECK_FUZZ", "100"))  # raise it for a long run
_SETTINGS = settings(
    max_examples=_MAX_EXAMPLES,
    deadline=None,
    derandomize="BNCHECK_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

#: One small layout of each container.
SEEDS = (
    "zip-bare",
    "module-own-class",
    "legacy-bare",
    "pickle-torch-2",
    "pickle-numpy-5",
    "torchscript-scripted",
    "torchscript-frozen",
    "exported-program",
    "safetensors-file",
    "sharded-safetensors",
    "distributed",
    "onnx-opset-17",
    "onnx-external-data",
)
_ARCHIVES = {
    "zip-bare",
    "module-own-class",
    "torchscript-scripted",
    "torchscript-frozen",
    "exported-program",
}
#: What the first bytes of a file decide, so that random bytes get beyond the first question.
MAGICS = (b"", b"\x80\x04", b"\x80\x02", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"PK\x03\x04",
          b"\x08\x08\x3a", b"}", b"(", b"\x10\0\0\0\0\0\0\0{")  # fmt: skip


def read(path: Path) -> None:
    """All that inspecting does with a file."""
    with contextlib.suppress(BncheckError):
        checkpoint = open_checkpoint(path)
        find_layers(checkpoint, Assumptions())
        for name in checkpoint.tensors:
            with contextlib.suppress(BncheckError):
                checkpoint.tensors[name]


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@_SETTINGS
@given(magic=st.sampled_from(MAGICS), rest=st.binary(max_size=300))
def test_random_bytes(scratch: Path, magic: bytes, rest: bytes) -> None:
    path = scratch / "random"
    path.write_bytes(magic + rest)
    read(path)


#: Opcodes and small arguments, so that pickles come out that do something.
_OPCODES = (
    b"(.012FGIJKLMNPQRSTUVX]abcdeghijlopqrstu})"
    b"\x80\x81\x82\x85\x86\x87\x88\x8a\x8c\x8f\x90\x91\x92\x93\x94"
)
_WORDS = st.sampled_from(
    [bytes([op]) for op in _OPCODES]
    + [b"ctorch._utils\n_rebuild_tensor_v2\n", b"cnumpy.core.multiarray\nscalar\n", b"K\x04",
       b"cnumpy\ndtype\n", b"X\x02\0\0\0f4", b"X\x08\0\0\0_modules", b"X\x0c\0\0\0running_mean",
       b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_parameter\n", b"h\x00", b"q\x00",
       b"X\x0b\0\0\0_parameters", b"X\x08\0\0\0_buffers", b"C\x04abcd"]
)  # fmt: skip


@_SETTINGS
@given(words=st.lists(_WORDS, max_size=60))
def test_random_pickles(scratch: Path, words: list[bytes]) -> None:
    path = scratch / "random.pkl"
    path.write_bytes(b"\x80\x04" + b"".join(words) + b".")
    read(path)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: BUILDERS[name](tmp_path_factory.mktemp("seed")).path for name in SEEDS}


def _files(path: Path) -> list[Path]:
    folder = path if path.is_dir() else path.parent
    related = path.is_dir() or path.suffix in (".json", ".onnx")
    return sorted(item for item in folder.iterdir() if item.is_file()) if related else [path]


_BYTE = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 255]))
_EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8) | _BYTE.map(
        lambda value: bytes([value]))),
    min_size=0,
    max_size=6,
)  # fmt: skip


def _damaged(good: bytes, edits: list[tuple[float, bytes]], keep: float) -> bytes:
    bad = bytearray(good)
    for place, patch in edits:
        at = int(place * len(good))
        bad[at : at + len(patch)] = patch
    return bytes(bad[: int(len(bad) * keep)])


def _damaged_record(good: bytes, which: int, edits: list[tuple[float, bytes]]) -> bytes:
    """The archive with one record changed and its checksum right: what an attacker would send."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        for name in names:
            data = old.read(name)
            new.writestr(name, _damaged(data, edits, 1.0) if names.index(name) == which else data)
    return out.getvalue()


@pytest.mark.parametrize("name", SEEDS)
@_SETTINGS
@given(which=st.integers(0, 30), edits=_EDITS, keep=st.just(1.0) | st.floats(0, 1))
def test_damaged_files(
    name: str, seeds: dict[str, Path], which: int, edits: list[tuple[float, bytes]], keep: float
) -> None:
    path = seeds[name]
    victims = _files(path)
    victim = victims[which % len(victims)]
    good = victim.read_bytes()
    try:
        victim.write_bytes(_damaged(good, edits, keep))
        read(path)
    finally:
        victim.write_bytes(good)


@pytest.mark.parametrize("name", [name for name in SEEDS if name in _ARCHIVES])
@_SETTINGS
@given(which=st.integers(0, 5), edits=_EDITS)
def test_damaged_records(
    name: str, seeds: dict[str, Path], which: int, edits: list[tuple[float, bytes]]
) -> None:
    path = seeds[name].with_name("damaged")
    path.write_bytes(_damaged_record(seeds[name].read_bytes(), which, edits))
    read(path)
