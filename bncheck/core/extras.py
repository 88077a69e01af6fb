"""What bncheck can do only with libraries that it does not bring along, and how to get them.

The line to type is that of the tool that installed this copy: pip knows nothing of what pipx or uv
keep, and `bncheck[torch]` names a project on an index, which a clone or a wheel did not come from.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from bncheck.core.errors import BncheckError
from bncheck.core.words import shortened

#: Linux wheels of torch on PyPI bring CUDA along: gigabytes that a machine without a GPU can spare.
_CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True, slots=True)
class Library:
    """A library: the extra that has it, what pip calls it, and what it is needed for."""

    extra: str
    requirement: str
    purpose: str


#: By the name that is imported. The requirements are those of pyproject.toml.
LIBRARIES: Final = {
    "torch": Library("torch", "torch>=2.10", "running a model"),
    "onnxruntime": Library("export", "onnxruntime>=1.20", "running an exported model"),
    "onnxscript": Library("export", "onnxscript>=0.7", "export to ONNX"),
    "jinja2": Library("html", "jinja2>=3.1", "the HTML report"),
    "plotly": Library("html", "plotly>=6", "the figures of the HTML report"),
    "PIL": Library("images", "pillow>=10", "a folder of images"),
    "pandas": Library("pandas", "pandas>=2", "a table of a report"),
    "yaml": Library("yaml", "pyyaml>=6", "a .yaml file"),
    "fsspec": Library("remote", "fsspec>=2024.6", "a URL"),
    "aiohttp": Library("remote", "aiohttp>=3.9", "https://"),
    "huggingface_hub": Library("remote", "huggingface-hub>=0.27", "hf://"),
    "s3fs": Library("s3", "s3fs>=2024.6", "s3://"),
    "gcsfs": Library("gcs", "gcsfs>=2024.6", "gs://"),
}


def need(*modules: str, purpose: str = "") -> None:
    """Raise a BncheckError that says which of these is not installed, why and how to get it."""
    missing = [module for module in modules if not is_installed(module)]
    if missing:
        raise not_installed(missing, purpose)


def is_installed(module: str) -> bool:
    """Whether a module could be imported; it is not imported to find out."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def explained(error: ImportError) -> BncheckError | None:
    """The error in place of one that a missing library has caused; None for any other."""
    module = (error.name or "").partition(".")[0]
    if module not in LIBRARIES:
        return None
    if is_installed(module):
        reason = shortened(" ".join(str(error).split()), 160)
        return BncheckError(f"{module} is installed and cannot be imported ({reason})", "reinstall")
    return not_installed([module])


def not_installed(modules: list[str], purpose: str = "") -> BncheckError:
    """Which libraries are missing, what for, and the line that installs them."""
    libraries = [LIBRARIES[module] for module in modules]
    *others, last = [library.requirement.partition(">")[0] for library in libraries]
    names = f"{', '.join(others)} and {last}" if others else last
    verb = "is" if len(modules) == 1 else "are"
    sentence = f"{purpose or libraries[0].purpose} needs {names}, which {verb} not installed"
    return BncheckError(sentence, install_line(modules))


def install_line(modules: list[str]) -> str:
    """What to type to install these libraries beside this copy of bncheck."""
    libraries = [LIBRARIES[module] for module in modules]
    extras = ",".join(dict.fromkeys(library.extra for library in libraries))
    requirements = [library.requirement for library in libraries]
    line, index = _line(extras, requirements)
    if "torch" in modules and sys.platform == "linux":
        return f"{line} (without a GPU add {index})"
    return line


def _line(extras: str, requirements: list[str]) -> tuple[str, str]:
    """The line, and what to add to it for torch's index."""
    prefix = Path(sys.prefix)
    origin = _origin()
    index = f"--extra-index-url {_CPU_INDEX}"
    if (prefix / "pipx_metadata.json").is_file():
        return f"pipx inject {prefix.name} {shlex.join(requirements)}", f"--pip-args='{index}'"
    if (prefix / "uv-receipt.toml").is_file():
        # uv forgets the --with of earlier, so what is there already is named again.
        there = [lib.requirement for name, lib in LIBRARIES.items() if is_installed(name)]
        words = [f"--with {shlex.quote(word)}" for word in dict.fromkeys([*there, *requirements])]
        return f"uv tool install {' '.join(words)} {origin.for_uv}", index
    return f"{_installer()} {origin.with_extras(extras, requirements)}", index


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where this copy came from: an index, or a folder that is still there (PEP 610)."""

    index: bool = False
    folder: str = ""
    editable: bool = False
    url: str = ""

    def with_extras(self, extras: str, requirements: list[str]) -> str:
        """What pip is told: the project with its extras, or where it cannot be named what is in
        them.
        """
        if self.index:
            return shlex.quote(f"bncheck[{extras}]")
        if self.folder:
            return f"{'-e ' if self.editable else ''}{shlex.quote(f'{self.folder}[{extras}]')}"
        return shlex.join(requirements)

    @property
    def for_uv(self) -> str:
        """What `uv tool install` is told, as it was when the tool was installed."""
        if self.folder:
            return f"{'--editable ' if self.editable else ''}{shlex.quote(self.folder)}"
        return shlex.quote(self.url or "bncheck")


@cache
def _origin() -> _Origin:
    from importlib import metadata

    try:
        text = metadata.distribution("bncheck").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # a folder on PYTHONPATH
        return _Origin()
    try:
        direct = json.loads(text) if text else None
    except ValueError:
        return _Origin()
    if direct is None:
        return _Origin(index=True)
    url = str(direct.get("url", ""))
    parts = urlsplit(url)
    folder = unquote(parts.path) if parts.scheme == "file" else ""
    if "dir_info" in direct and os.path.isfile(os.path.join(folder, "pyproject.toml")):
        return _Origin(folder=folder, editable=bool(direct["dir_info"].get("editable")), url=url)
    vcs = direct.get("vcs_info", {}).get("vcs", "")
    return _Origin(url=f"{vcs}+{url}" if vcs else url)


def _installer() -> str:
    """The pip of this environment: that on the PATH may be another's."""
    found = shutil.which("pip")
    if found and Path(found).parent == Path(sys.executable).parent:
        return "pip install"
    python = shlex.quote(sys.executable)
    if is_installed("pip") or not shutil.which("uv"):
        return f"{python} -m pip install"
    return f"uv pip install --python {python}"
