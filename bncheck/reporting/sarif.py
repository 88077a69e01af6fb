"""SARIF 2.1.0, which GitHub's code scanning and many editors read.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.reporting.document import Document, Pages
from bncheck.reporting.places import sentence, uri
from bncheck.reporting.visible import visible
from bncheck.rules.registry import RULES
from bncheck.rules.rule import AnyRule
from bncheck.writing.json_text import dump

_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def render(pages: Pages) -> str:
    """One run: the rules that found something, a result for each finding, what went wrong."""
    documents, errors = pages.documents, pages.errors
    found = {finding.rule for document in documents for finding, _ in _all(document)}
    rules = [rule for rule in RULES if rule.code in found]
    index = {rule.code: number for number, rule in enumerate(rules)}
    run = {
        "tool": {
            "driver": {
                "name": "bncheck",
                "version": __version__,
                "rules": [_rule(rule, pages.page_of(rule.code)) for rule in rules],
            }
        },
        "invocations": [
            {
                "executionSuccessful": not errors,
                "toolExecutionNotifications": [_notification(error) for error in errors],
            }
        ],
        "results": (  # one by one: each is a kilobyte
            _result(document, finding, index) | _suppressed(why)
            for document in documents
            for finding, why in _all(document)
        ),
        "columnKind": "unicodeCodePoints",
    }
    return dump({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


def _all(document: Document) -> Iterator[tuple[Finding, str | None]]:
    """What counts, and what the project silenced, with where it says so."""
    yield from ((finding, None) for finding in document.findings)
    yield from ((silenced.finding, silenced.why) for silenced in document.silenced)


def _suppressed(why: str | None) -> dict[str, object]:
    """Section 3.35: a viewer shows such a result as closed."""
    if why is None:
        return {}
    return {"suppressions": [{"kind": "external", "justification": visible(why, None)}]}


def _rule(rule: AnyRule, page: str) -> dict[str, object]:
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.explanation},
        "helpUri": page,
        "defaultConfiguration": {"level": _LEVELS[rule.severities[0]]},
    }


def _result(document: Document, finding: Finding, index: dict[str, int]) -> dict[str, object]:
    place: dict[str, object] = {
        "physicalLocation": {
            "artifactLocation": {"uri": uri(document.file)},
            "region": {"startLine": 1},  # a checkpoint has no lines, and GitHub wants one
        }
    }
    if finding.layer is not None:
        place["logicalLocations"] = [{"fullyQualifiedName": finding.layer, "kind": "module"}]
    text = f"{sentence(finding.layer, finding.message)}. Fix: {visible(finding.fix, None)}"
    return {
        "ruleId": finding.rule,
        "ruleIndex": index[finding.rule],
        "level": _LEVELS[finding.severity],
        "message": {"text": _unlinked(text)},
        "locations": [place],
        "properties": {
            "layer": finding.layer,
            "message": finding.message,
            "fix": finding.fix,
            "evidence": dict(finding.evidence),
        },
        # GitHub tells old alerts from new ones by the name that its own hash of a line has.
        "partialFingerprints": {
            "bncheck/v1": finding.fingerprint,
            "primaryLocationLineHash": f"{finding.fingerprint[:16]}:1",
        },
    }


def _notification(error: BncheckError) -> dict[str, object]:
    return {"level": "error", "message": {"text": _unlinked(visible(str(error), None))}}


def _unlinked(text: str) -> str:
    """A text without links: `[words](target)` is one in any message, section 3.11.6."""
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
