"""Is a report a valid document of its format? With the official schemas where there are any."""

from __future__ import annotations

import io
import json
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import jsonschema
from markdown_it import MarkdownIt

_SCHEMAS = Path(__file__).parent / "schemas"
_GITLAB = {"description", "check_name", "fingerprint", "severity", "location"}


@cache
def _sarif() -> Any:
    schema = json.loads((_SCHEMAS / "sarif-2.1.0.json").read_text())
    return jsonschema.Draft7Validator(schema)


@cache
def _junit() -> Any:
    import xmlschema  # as long as all other imports of a test of reports together

    return xmlschema.XMLSchema(_SCHEMAS / "junit-10.xsd")


def check(format_: str, text: str) -> None:
    """Assert that `text` is valid, and that no character in it steers a terminal."""
    if format_ == "html":  # it brings its scripts along
        _check_html(text)
        return
    assert text.endswith("\n")
    for line in text.split("\n"):
        assert line.isprintable() or not line, repr(line)
        assert "##[" not in line  # GitHub's runner would obey it
        assert format_ == "github" or not line.lstrip().startswith("::")
    globals().get(f"_check_{format_}", lambda text: None)(text)


def _check_json(text: str) -> None:
    json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def _check_sarif(text: str) -> None:
    data = json.loads(text)
    _sarif().validate(data)
    for result in data["runs"][0]["results"]:
        rule = data["runs"][0]["tool"]["driver"]["rules"][result["ruleIndex"]]
        assert rule["id"] == result["ruleId"]
        assert result["partialFingerprints"]


def _check_junit(text: str) -> None:
    _junit().validate(io.StringIO(text))
    root = Xml.fromstring(text)
    for kind in ("failure", "error"):
        number = len(root.findall(f".//testcase/{kind}"))
        assert root.get(f"{kind}s") == str(number)
    assert root.get("tests") == str(len(root.findall(".//testcase")))


class _Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def _check_html(text: str) -> None:
    """No tag, event handler or address that a name brought along."""
    parser = _Tags()
    parser.feed(text)
    for tag, attributes in parser.tags:
        assert tag not in ("img", "iframe", "object", "embed", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src"):
            assert not (attributes.get(name) or "").startswith(("http:", "javascript:"))
    for character in "\x1b\u202e\x00":
        assert character not in text


def _check_gitlab(text: str) -> None:
    issues = json.loads(text)
    for issue in issues:
        assert issue.keys() == _GITLAB
        assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert issue["location"]["lines"]["begin"] == 1
    prints = [issue["fingerprint"] for issue in issues]
    assert len(set(prints)) == len(prints)


def _check_github(text: str) -> None:
    lines = text.splitlines()
    for level in ("error", "warning"):
        assert sum(line.startswith(f"::{level} ") for line in lines) <= 10
    for line in lines:
        assert line.startswith(
            ("::error ", "::warning ", "inspect ", "drift ", "fold ", "compare ")
        ), line


def _check_markdown(text: str) -> None:
    """No markup but ours: what a renderer makes of it has no tags, links or pictures of a name."""
    assert len(text.encode()) <= 2**20
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    for token in tokens:
        if token.type == "html_block":
            assert token.content.startswith(("<details><summary>", "</details>")), token.content
        for child in token.children or ():
            assert child.type in (
                "text", "code_inline", "softbreak", "hardbreak", "html_inline", "strong_open",
                "strong_close", "text_special",
            ), child  # fmt: skip
            if child.type == "html_inline":
                assert child.content in ("<code>", "</code>")
