"""Persistent ids of a torch file: which storage a tensor is a view of.

torch makes a storage when its key first comes up, of the dtype and size that stand there, and takes
what it has whenever the key comes again. So a later id that says something else is refused.
"""

from __future__ import annotations

from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.reading.pickle_values import Global, Persistent, StorageReference, Value


class References:
    """Turns the persistent ids of one pickle into values; `length` is that of a storage's id.

    zip archives: ("storage", kind, key, location, elements). Legacy files add what part is meant:
    None or, until torch 0.4, (key of the view, offset, length).
    """

    def __init__(self, length: int) -> None:
        self._length: Final = length
        self.first: dict[str, StorageReference] = {}
        self._views: dict[str, tuple[str, int, int]] = {}

    def __call__(self, pid: Value) -> Value:
        """What stands for `pid`. Raises BncheckError for one that torch would refuse."""
        if not isinstance(pid, tuple) or len(pid) < 2 or not isinstance(pid[0], (str, bytes)):
            return Persistent(pid)
        if pid[0] == "module":  # legacy files wrap a class to carry its source code along
            return pid[1]
        if pid[0] not in ("storage", b"storage") or len(pid) != self._length:
            raise _malformed()
        _, kind, key, location, elements, *view = pid
        location = location.decode("latin-1") if isinstance(location, bytes) else location
        if not isinstance(kind, Global) or not isinstance(key, str) or type(elements) is not int:
            raise _malformed()
        if not isinstance(location, str) or elements < 0:
            raise _malformed()
        whole = self._whole(StorageReference(key, kind.name, elements, location))
        return self._part(whole, view[0]) if view and view[0] is not None else whole

    def _whole(self, new: StorageReference) -> StorageReference:
        known = self.first.setdefault(new.key, new)
        if known.kind != new.kind:
            # torch.save refuses to write that, and torch.load takes the first for both.
            raise BncheckError(
                f"gives storage {new.key[:40]!r} two dtypes", "save it again with torch.save"
            )
        if (known.elements, known.location) != (new.elements, new.location):
            raise BncheckError(
                f"describes storage {new.key[:40]!r} in two ways", "save it again with torch.save"
            )
        if new.key in self._views:
            raise _view_twice(new.key)
        return known

    def _part(self, whole: StorageReference, view: Value) -> StorageReference:
        if not isinstance(view, tuple) or len(view) != 3:
            raise _malformed()
        key, offset, length = view
        if not isinstance(key, str) or type(offset) is not int or type(length) is not int:
            raise _malformed()
        if min(offset, length) < 0 or offset + length > whole.elements:
            raise _malformed()
        place = (whole.key, offset, length)
        if key in self.first or self._views.setdefault(key, place) != place:
            raise _view_twice(key)
        return StorageReference(
            whole.key, whole.kind, whole.elements, whole.location, (offset, length)
        )


def _malformed() -> BncheckError:
    return BncheckError("has a malformed reference to a storage", "save it again with torch.save")


def _view_twice(key: str) -> BncheckError:
    return BncheckError(
        f"gives the key {key[:40]!r} to two parts of its storages", "save it again with torch.save"
    )
