"""What this bncheck runs on: the first thing that a bug report needs."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Final

#: The libraries that read files, print and compute; some are extras.
_LIBRARIES: Final = (
    *("ml-dtypes", "numpy", "onnx", "protobuf", "rich", "safetensors", "typer"),
    *("torch", "onnxruntime", "pillow", "fsspec", "huggingface-hub"),
)


def platform_lines() -> list[str]:
    """Python, platform and libraries; none of these is imported to find out."""
    versions = [("python", platform.python_version()), ("platform", platform.platform())]
    versions += [(name, _version(name)) for name in _LIBRARIES]
    return [f"{name:<13} {version}" for name, version in versions]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
