"""JUnit's XML, as Jenkins' xUnit plugin defines it and every CI system reads it."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as Xml

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.reporting.document import Document, Pages
from bncheck.reporting.places import full_text, sentence
from bncheck.reporting.visible import visible


def render(pages: Pages) -> str:
    """A suite for each document, a case for each finding.

    A finding that does not make the command fail is a case that passes and says what it saw.
    """
    suites = [_suite(document) for document in pages.documents]
    suites += [_error(error) for error in pages.errors]
    root = Xml.Element("testsuites", {"name": "bncheck", **_totals(suites)})
    root.extend(suites)
    Xml.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{Xml.tostring(root, encoding="unicode")}\n'


def _suite(document: Document) -> Xml.Element:
    name = _name(document)
    cases = [_case(document, finding) for finding in document.findings]
    if not cases:
        cases = [Xml.Element("testcase", name=document.verdict, classname=name)]
    failures = sum(document.fails(finding) for finding in document.findings)
    return _filled(name, cases, failures=failures, errors=0)


def _name(document: Document) -> str:
    """The same at the next run, whose results a CI system compares: the file, not what was seen."""
    model = f"{document.model}: " if document.model else ""
    return visible(f"{model}{document.command} {document.file}", None)


def _case(document: Document, finding: Finding) -> Xml.Element:
    where = "whole model" if finding.layer is None else visible(finding.layer) or "(root)"
    case = Xml.Element(
        "testcase",
        name=f"{finding.rule} {finding.name}: {where}",
        classname=_name(document),
    )
    text = full_text(finding)
    if document.fails(finding):
        message = sentence(finding.layer, finding.message)
        Xml.SubElement(case, "failure", type=finding.severity.value, message=message).text = text
    else:
        word = "note" if finding.severity is Severity.INFO else finding.severity.value
        Xml.SubElement(case, "system-out").text = f"{word}: {text}"
    return case


def _error(error: BncheckError) -> Xml.Element:
    name = visible(error.subject, None) or "bncheck"
    case = Xml.Element("testcase", name=name, classname="bncheck")
    Xml.SubElement(case, "error", type="error", message=visible(str(error), None))
    return _filled(name, [case], failures=0, errors=1)


def _filled(name: str, cases: Sequence[Xml.Element], failures: int, errors: int) -> Xml.Element:
    suite = Xml.Element(
        "testsuite",
        name=name,
        tests=str(len(cases)),
        failures=str(failures),
        errors=str(errors),
    )
    suite.extend(cases)
    return suite


def _totals(suites: Sequence[Xml.Element]) -> dict[str, str]:
    return {
        key: str(sum(int(suite.get(key, "0")) for suite in suites))
        for key in ("tests", "failures", "errors")
    }
