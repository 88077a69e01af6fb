"""Files around a drawn pickle: zip archives, now and then with a changed byte, legacy, plain."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hypothesis import strategies as st

from tests.hostile.assembler import text
from tests.hostile.case import file, pack
from tests.reading.loaders.array_grammar import ArrayGrammar
from tests.reading.loaders.pickle_grammar import RECORDS, Grammar

_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."


def _zip(folder: Path, body: bytes, order: str, patches: list[tuple[int, int]]) -> Path:
    records = {"a/data.pkl": b"\x80\x02" + body + b".", "a/version": b"3\n"}
    records |= {f"a/data/{key}": raw for key, raw in RECORDS.items()}
    if order:
        record, _, value = order.partition("=")
        records[f"a/{record}"] = value.encode()
    path = pack(folder / "model.pt", records)
    data = bytearray(path.read_bytes())
    for place, byte in patches:  # counted from the end: the directory, then headers and numbers
        data[-1 - place % len(data)] = byte
    path.write_bytes(data)
    return path


def _legacy(folder: Path, body: bytes, keys: tuple[str, ...]) -> Path:
    listed = b"\x80\x02](" + b"".join(text(key) for key in keys) + b"e."
    raw = b"".join(struct.pack("<q", 4) + RECORDS[key] for key in keys)
    return file(folder, _MAGIC + b"\x80\x02" + body + b"." + listed + raw)


@st.composite
def files(draw: st.DrawFn) -> Callable[[Path], Path]:
    """Writes one file into a folder."""
    form = draw(st.sampled_from(("zip", "zip", "legacy", "legacy", "plain")))
    if form == "plain":
        data = b"\x80\x04" + ArrayGrammar(draw, False).content() + b"."
        return partial(file, data=data, name="model.pkl")
    legacy = form == "legacy"
    body = Grammar(draw, legacy).content()
    if legacy:
        keys = draw(st.sampled_from((("0", "1"), ("1", "0"), ("0",), ("0", "1", "0"))))
        return partial(_legacy, body=body, keys=keys)
    order = draw(st.sampled_from(("", "", "byteorder=little", "byteorder=big", "BYTEORDER=big")))
    # What sizes, flags, counts and offsets are made of.
    bytes_ = st.sampled_from((0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 46, 48, 80, 128, 255))
    patch = st.tuples(st.integers(0, 700), bytes_)
    patches = draw(st.lists(patch, max_size=2)) if draw(st.integers(0, 3)) == 0 else []
    return partial(_zip, body=body, order=order, patches=patches)
