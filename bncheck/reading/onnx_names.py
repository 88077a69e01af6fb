"""Names in an ONNX file: the domains of operators, and the modules in names of parameters."""

from __future__ import annotations

from typing import Final

#: The domains of the standard operators.
STANDARD: Final = ("", "ai.onnx")
_ENDINGS: Final = tuple(
    f"{mark}{role}" for role in ("running_mean", "running_var", "weight", "bias") for mark in "./_"
)


def owner(parameter: str) -> str:
    """The module that a parameter belongs to by its name, "" where that tells none."""
    return next((parameter[: -len(e)] for e in _ENDINGS if parameter.endswith(e)), "")


def text(name: str | bytes) -> str:
    """protobuf hands out names that are not UTF-8 as bytes."""
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")
