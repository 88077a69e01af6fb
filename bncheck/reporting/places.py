"""Where a file is, as CI systems name it: relative to the root of the repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import quote

from bncheck.core.findings import Evidence, Finding
from bncheck.reading.remote import is_url
from bncheck.reporting.visible import layer_name, visible

#: Where GitHub's and GitLab's runners say that the repository is.
_ROOTS: Final = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")

#: What a URL has besides letters and digits (RFC 3986).
_URL: Final = "/:@?&=%#+,;~!$'()*[]"


def repository_path(subject: str) -> str:
    """The path from the root of the repository, with slashes; absolute where it lies outside.

    Off CI the root is the working directory.
    """
    if is_url(subject):
        return subject
    root = next((os.environ[name] for name in _ROOTS if os.environ.get(name)), os.getcwd())
    absolute = Path(os.path.abspath(subject))
    try:
        return absolute.relative_to(os.path.abspath(root)).as_posix()
    except ValueError:
        return absolute.as_posix()


def file_and_line(subject: str) -> tuple[str, int]:
    """`pyproject.toml:16` -> its path and 16; line 0 where the subject names none."""
    path, colon, number = subject.rpartition(":")
    if colon and number.isascii() and number.isdigit() and os.path.isfile(path):
        return path, int(number[:9])
    return subject, 0


def uri(subject: str) -> str:
    """The same as a URI reference."""
    path = repository_path(subject)
    if path == subject and is_url(path):
        return quote(path, safe=_URL, errors="surrogatepass")
    encoded = quote(path, errors="surrogatepass")
    return f"file://{encoded}" if path.startswith("/") else encoded


def sentence(layer: str | None, message: str) -> str:
    """Layer and message in a line, safe to show."""
    return f"{layer_name(layer)}: {visible(message, None)}"


def full_text(finding: Finding, page: str = "") -> str:
    """All that a finding says, a line each: layer and message, the fix, the evidence.

    `page`, the address of the rule's own, is the last.
    """
    lines = [sentence(finding.layer, finding.message), f"fix: {visible(finding.fix, None)}"]
    known = {key: value for key, value in finding.evidence.items() if value is not None}
    if known:
        found = ", ".join(f"{key} {_number(value)}" for key, value in known.items())
        lines.append(f"evidence: {visible(found, None)}")
    return "\n".join((*lines, page) if page else lines)


def _number(value: Evidence) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_number, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
