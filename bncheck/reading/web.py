"""Parts of a file from a web server, which may be anybody's: only what was asked for is taken."""

from __future__ import annotations

from typing import Any

from bncheck.core.errors import BncheckError
from bncheck.reading.remote import Remote, filesystem, info_of, timeout_of


class NoPartsError(ValueError):
    """The server sends the whole file, whatever it is asked for."""


def fetch_part(path: Remote, start: int, end: int) -> bytes:
    """The bytes from `start` up to `end`, or fewer, or one more than asked for where a server sends
    too many. Raises what aiohttp raises, and NoPartsError.
    """
    from fsspec.asyn import sync

    system = filesystem(path)
    return bytes(sync(system.loop, _fetch, system, path, start, end))


async def _fetch(system: Any, path: Remote, start: int, end: int) -> bytearray:
    session = await system.set_session()
    headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    asked = session.get(
        system.encode_url(str(path)), headers=headers, timeout=timeout_of(end - start)
    )
    async with asked as answer:
        answer.raise_for_status()
        passed = [answer.url, *(step.url for step in answer.history)]
        if path.scheme == "https" and any(url.scheme != "https" for url in passed):
            raise BncheckError("redirects to an unencrypted address", "name that address")
        place = answer.headers.get("Content-Range", "")
        if answer.status != 206 or not place.startswith(f"bytes {start}-"):
            raise NoPartsError("the server sends no parts of the file")
        _check_same(path, place, answer.headers.get("ETag"))
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise NoPartsError("the server compresses what it was asked to send as it is")
        data, most = bytearray(), end - start + 1
        while len(data) < most and (piece := await answer.content.read(most - len(data))):
            data += piece
        return data


def _check_same(path: Remote, place: str, tag: str | None) -> None:
    """Raise BncheckError for a part of another file than was there when it was first asked for."""
    first, size = info_of(path), place.rpartition("/")[2]
    other = size.isdecimal() and int(size) != first.get("size")
    if other or (tag and first.get("ETag") and tag != first["ETag"]):
        raise BncheckError("has changed while it was read", "try again", str(path))
