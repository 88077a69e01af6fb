"""A folded state dict as .safetensors, with a manifest, and loading it into the user's own model.

Loading changes the model's architecture along with its numbers or refuses: in_module.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.folding.program.fold import FoldResult
from bncheck.folding.program.in_module import FoldedState, applied, apply, compare
from bncheck.folding.program.reading_back import same_bits
from bncheck.folding.result import FoldReport
from bncheck.reading.safetensors_file import FOLDED
from bncheck.writing.atomic import check_read_back, replacing

_SCHEMA: Final = "bncheck.folded-state/1"
#: What a manifest lists by name.
_NAMES: Final = ("identities", "bare", "plain_weights", "added", "removed")


def save_folded(
    result: FoldResult,
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    path: Path,
    source: Path,
) -> None:
    """Write the folded tensors, after loading them into a copy of the model and comparing."""
    state = FoldedState.of(result, model)
    tolerance = 1e-5 if result.parity is None else max(result.parity.tolerance, 1e-5)
    compare(result.module(), applied(model, state), example_inputs, tolerance)
    save_state(state, result.report, path, source)


def save_state(state: FoldedState, report: FoldReport, path: Path, source: Path) -> None:
    """Write what was folded and proven."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    manifest = {
        "schema": _SCHEMA,
        "bncheck": __version__,
        "torch": torch.__version__,
        "source_sha256": _digest(source),
        "batchnorms": [decision.to_dict() for decision in report.batchnorms],
        **state.changes,
        "parity": report.parity.to_dict() if report.parity else None,
    }
    metadata = {"format": "pt", FOLDED: json.dumps(manifest)}
    with replacing(path, source) as temporary:
        try:
            save_file(_unshared(state.tensors), temporary, metadata)
        except SafetensorError as error:  # also of a full disk
            raise BncheckError(
                f"cannot be written ({error})", "choose another", str(path)
            ) from None
        check_read_back(path, lambda: _holds(temporary, state.tensors, metadata))


def _holds(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bool:
    """Whether a file holds these, to the bit."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        return (
            file.metadata() == metadata
            and set(file.keys()) == set(tensors)
            and all(same_bits(file.get_tensor(name), each) for name, each in tensors.items())
        )


def load_folded(module: nn.Module, path: Path) -> nn.Module:
    """Fold the module with a file's tensors; refuses, before any change, what does not fit it."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BncheckError("does not exist", "check the path", str(path))
    try:
        with safe_open(str(path), "pt") as file:
            manifest = _manifest((file.metadata() or {}).get(FOLDED, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        apply(module, manifest, state)
    except BncheckError as error:
        raise error.about(str(path)) from None
    except SafetensorError as error:
        raise BncheckError(
            f"is not a .safetensors file ({error})",
            "make one with `bncheck fold ... -o X.safetensors`",
            str(path),
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BncheckError(f"cannot be read ({error})", "check the path", str(path)) from None
    return module


def _manifest(text: str) -> dict[str, Any]:
    """What `save_state` wrote; raises BncheckError for whatever else stands there."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("schema") != _SCHEMA:
        raise BncheckError(
            "is not a folded state dict", "make one with `bncheck fold ... -o X.safetensors`"
        )
    names = [found.get(what, []) for what in _NAMES]
    named = all(isinstance(each, list) and all(map(_is_word, each)) for each in names)
    if not named or not isinstance(found.get("original"), dict):
        raise BncheckError("says wrongly how it was folded", "fold the model again")
    return found


def _is_word(value: object) -> bool:
    return isinstance(value, str)


def _digest(path: Path) -> str | None:
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unshared(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """safetensors refuses tensors that share memory."""
    return {name: tensor.clone() for name, tensor in state.items()}
