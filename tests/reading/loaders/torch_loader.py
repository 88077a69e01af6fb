"""torch.load(weights_only=True) in a process of its own, which is fed one file after the other.

Files `.pkl` are unpickled by pickle.

A file may make torch crash; then the process is started again, and the file counts as refused.
Protocol: a path on a line of stdin; on stdout a line of JSON, {"error": ...} or {"parts": [...]},
each a dict in the file: {"paths": [...], "tensors": {name: [dtype, shape, hex] or null}}.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: dtype, shape and bytes; None where a tensor has no numbers of its own.
Numbers = tuple[str, tuple[int, ...], str] | None


@dataclass(frozen=True)
class Part:
    """One dict of the loaded object: where it is (it may be shared), and its tensors."""

    paths: frozenset[str]
    tensors: Mapping[str, Numbers]


class Loader:
    """The worker, from the side of the tests."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def load(self, path: Path) -> list[Part] | None:
        """What torch finds in a file, or None where it refuses it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self.close()
            self._start()
            return None
        answer = json.loads(line)
        if "error" in answer:
            return None
        return [Part(frozenset(p["paths"]), _numbers(p["tensors"])) for p in answer["parts"]]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)


def _numbers(tensors: dict[str, Any]) -> dict[str, Numbers]:
    return {
        name: None if value is None else (value[0], tuple(value[1]), value[2])
        for name, value in tensors.items()
    }


def _main() -> None:
    import torch

    warnings.simplefilter("ignore")
    for line in sys.stdin:
        try:
            path = line.strip()
            plain = path.endswith(".pkl")
            content = _unpickled(path) if plain else torch.load(path, weights_only=True)
            answer = _parts(content)
        except Exception as error:
            answer = {"error": type(error).__name__}
        print(json.dumps(answer), flush=True)  # noqa: T201


def _unpickled(path: str) -> Any:
    """What pickle finds, where no more is called than NumPy's and Python's own makers."""
    with open(path, "rb") as stream:
        return _Plain(stream).load()


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = (module.startswith("numpy") and name in _NUMPY) or name in _PYTHON
        if not known:
            raise pickle.UnpicklingError(name)
        return super().find_class(module, name)


_NUMPY = ("dtype", "ndarray", "_reconstruct", "_frombuffer", "scalar")
_PYTHON = ("OrderedDict", "Counter", "encode")


def _parts(content: Any) -> dict[str, Any]:
    parts: dict[int, dict[str, Any]] = {}
    for path, part in _dicts("", content, 0):
        known = parts.setdefault(id(part), {"paths": [], "tensors": _tensors(part)})
        known["paths"].append(path)
    return {"parts": list(parts.values())}


def _dicts(path: str, value: Any, depth: int) -> Iterator[tuple[str, dict[Any, Any]]]:
    if isinstance(value, dict):
        yield path, value
        pairs = list(dict.items(value))
    else:
        pairs = list(enumerate(value)) if isinstance(value, (list, tuple)) else []
    for key, item in pairs if depth < 6 else ():
        if isinstance(key, int):
            key = int(key)  # as bncheck names True
        name = key.decode() if isinstance(key, bytes) else str(key)
        yield from _dicts(f"{path}.{name}" if path else name, item, depth + 1)


def _tensors(part: dict[Any, Any]) -> dict[str, Any]:
    import numpy as np
    import torch

    names = {key.decode() if isinstance(key, bytes) else key: v for key, v in dict.items(part)}
    return {
        name: _described(value)
        for name, value in names.items()
        if isinstance(name, str) and isinstance(value, (torch.Tensor, np.ndarray, np.generic))
    }


def _described(tensor: Any) -> list[Any] | None:
    import numpy as np
    import torch

    if not isinstance(tensor, torch.Tensor):
        native = np.asarray(tensor)
        native = native.astype(native.dtype.newbyteorder("="))
        return [native.dtype.name, list(native.shape), native.tobytes().hex()]
    with torch._C.DisableTorchFunctionSubclass():
        plain = torch.Tensor.detach(tensor)
        if plain.is_meta or plain.is_quantized or plain.layout is not torch.strided:
            return None
        try:
            if plain.is_nested:
                return None
            stored = plain.resolve_conj().resolve_neg().contiguous().reshape(-1)
            raw = stored.view(torch.uint8).tolist() if stored.numel() else []
            return [str(tensor.dtype).removeprefix("torch."), list(plain.shape), bytes(raw).hex()]
        except (RuntimeError, NotImplementedError):
            return None


if __name__ == "__main__":
    _main()
