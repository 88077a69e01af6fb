"""No format holds less than text: what one Document says is in all of them, and nothing is lost."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from rich.console import Console

from bncheck.cli import run
from bncheck.core.findings import Finding, Severity
from bncheck.reporting import document as documents
from bncheck.reporting import github, gitlab, junit, markdown, sarif
from bncheck.reporting import html as page
from bncheck.reporting import text as plain
from bncheck.reporting.document import Detail, Document, Fact, Group, Pages, Table
from bncheck.reporting.figures import Band, Distribution, Distributions, Heatmap, Ranking
from bncheck.reporting.places import full_text
from tests.golden.cases import prepare
from tests.networks import SAMPLES

_KNOWN = {"next_steps", "told"}


def full_document() -> Document:
    """Every part of a document that there is, each with words of its own."""
    findings = tuple(
        Finding(
            "BN101", "never-updated-statistics", severity, f"layer{place}", f"message {place}",
            f"fix {place}: run `command {place}`; then look", {"share": 0.25 + place, "of": [7, 8]},
        )
        for place, severity in enumerate(Severity)
    )  # fmt: skip
    kept = Finding("BN402", "batchnorm-not-folded", Severity.INFO, "bn7", "kept: seven", "leave it")
    table = Table(
        "Measured numbers", ("layer", "W2 here", "bar"), (("rowa", "0.1234", "██··"),
        ("rowb", "5.678", "···")), ("W2 here",), "caption of it", Detail.VERBOSE, (0,), "the rest",
        ((None, Severity.ERROR, None), (None, None, None)),
    )  # fmt: skip
    heatmap = Heatmap(
        "A picture", "what it shows", ("rowa", "rowb"), ("s1", "s2"), ((0.1, 0.5), (None, 0.3)),
        "W2", 0.02, 2.0, "the last", beside=(("furthest", ("0.50", "0.30")),),
        ranking=Ranking((0, 1), "are first", "are last"),
    )  # fmt: skip
    lines = Distributions("Over time", "how", ("s1",), (Distribution("rowa", (Band("c", (1.0,),
        (1.0,)),)),))  # fmt: skip
    return Document(
        "inspect", "net.pt", "broken", Severity.ERROR,
        (Fact("first fact 11.5"), Fact("an aside 12.5", quiet=True),
         Fact("a third 13.5", "about", Severity.WARNING, detail=Detail.VERBOSE)),
        (*findings, kept), (table,), (heatmap, lines),
        (Fact("a detail 14.5", "batch size", detail=Detail.VERBOSE),),
        ("command 0", "command 9"), ("a note 15.5",),
        (Group("kept", Severity.INFO, "two norms", (("bn7", "seven"), (None, "eight")),
               ("move it",), "BN402", brief=((None, "both"),)),),
        "folder/net.pt", model="student",
    )  # fmt: skip


def said_in(document: Document) -> Iterator[str]:
    """Every word of a document that is for people; a new field must be added here."""
    yield from (document.model, document.subject, document.verdict)
    for fact in (*document.facts, *document.details):
        yield from (fact.name, fact.text)
    for finding in document.findings:
        yield from (finding.rule, finding.name, finding.layer or "", finding.severity.value)
        yield from (finding.message, *_code_apart(finding.fix))
    for group in document.told:
        yield from (group.head, *group.fixes)
        yield from (word for line in group.lines for word in line if word)
    for table in document.tables:
        yield from (table.title, *table.columns, table.caption)
        yield from (cell for row in table.rows for cell in row)
    yield from (*document.next_steps, *document.notes)


def _code_apart(sentence: str) -> list[str]:
    return sentence.split("`")


def words(rendered: str) -> str:
    """What a reader sees of HTML or Markdown: tags and escapes gone, blanks single."""
    shown = re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", rendered, flags=re.DOTALL)
    return " ".join(html.unescape(shown).replace("`", "").replace("**", "").split())


@pytest.mark.parametrize("renderer", [markdown, page])
def test_every_fact_finding_number_and_next_step_is_in_markdown_and_html(renderer: Any) -> None:
    document = full_document()
    shown = words(renderer.render(Pages((document,), (), "a last line")))
    missing = [word for word in said_in(document) if " ".join(word.split()) not in shown]
    assert not missing
    assert "a last line" in shown


def test_text_with_verbose_holds_no_more_than_that() -> None:
    """The sentences of text, but for its layout, come from the document."""
    document = full_document()
    text = words(plain.render(Pages((document,))))
    for word in said_in(document):
        elsewhere = word in ("student", "command 0", "a note 15.5", "A picture", "Measured numbers")
        told = word.startswith(("kept: seven", "leave it", "fix 0", "batchnorm-not", "BN402"))
        assert elsewhere or told or " ".join(word.split()).upper() in text.upper(), word


def test_no_part_of_a_document_is_forgotten() -> None:
    """`full_document` fills every field that says something."""
    parts: list[Any] = [full_document(), *full_document().tables, *full_document().told]
    for part in parts:
        empty = [f.name for f in fields(part) if getattr(part, f.name) in ("", (), None)]
        assert set(empty) <= {"note", "silenced"}  # what does not count, SARIF alone tells
    assert {name for name, kind in vars(documents).items() if isinstance(kind, type)} >= {
        "Fact", "Table", "Group", "Document"
    }  # fmt: skip


def test_findings_are_whole_wherever_findings_are_all_there_is() -> None:
    document = full_document()
    pages = Pages((document,))
    results = json.loads(sarif.render(pages))["runs"][0]["results"]
    issues = json.loads(gitlab.render(pages))
    cases = Xml.fromstring(junit.render(pages)).findall(".//testcase")
    lines = github.render(pages).splitlines()
    for place, finding in enumerate(document.findings):
        kept = results[place]["properties"]
        assert kept["message"] == finding.message
        assert kept["fix"] == finding.fix
        assert kept["evidence"] == dict(finding.evidence)
        whole = full_text(finding)
        assert "".join(cases[place].itertext()).strip().endswith(whole)
        linked = full_text(finding, pages.page_of(finding.rule))
        assert issues[place]["description"] == linked.replace("\n", "; ")
        if finding.severity is not Severity.INFO:
            assert lines[place].endswith(linked.replace("\n", "%0A"))
        for value in finding.evidence.values():
            assert str(value) in whole


def test_every_rule_leads_to_its_page_of_the_documentation_that_is_set() -> None:
    pages = Pages((full_document(),), docs="https://docs.example/bn")
    wanted = "https://docs.example/bn/rules/BN101/"
    (rule, *_) = json.loads(sarif.render(pages))["runs"][0]["tool"]["driver"]["rules"]
    assert rule["helpUri"] == wanted
    assert wanted in page.render(pages)
    assert wanted in github.render(pages)
    assert wanted in gitlab.render(pages)


CASES = {
    "inspect": ["sample_models/stale.pt", "--model", "sample_models/nets.py:DigitNet", "--data",
                "sample_models/digits-test.npz", "--shape"],
    "drift": ["sample_models/snapshots/epoch-001.pt", "sample_models/snapshots/epoch-020.pt"],
    "fold": ["kept.safetensors", "--model", "kept.py:Net", "--input", "4,6,6", "--dry-run"],
    "recalibrate": ["sample_models/under-warmed-module.pt", "-o", "new.pt"],
    "compare": ["sample_models/healthy.onnx", "sample_models/healthy.onnx"],
    "gate": [],
}  # fmt: skip


@pytest.mark.parametrize("command", CASES)
def test_what_text_says_of_a_real_report_is_in_markdown_and_html(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word for word; of the terminal's own are the heatmap and what points below or at options."""
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    formats = ("text", "markdown", "html")
    reports = [word for f in formats for word in ("--report", f"{f}:report.{f}")]
    assert run([command, *CASES[command], *reports]) in (0, 1, 2)
    text, *others = (words(Path(f"report.{f}").read_text()).lower() for f in formats)
    rows, legend = r"layer (?:\S+ )*furthest .*?w2 to the .*?# 2\+", r"shown first: the .*?furthest"
    picture = f"{rows}|{legend}"
    text = re.sub(picture, "", text)
    for other in others:
        missing = {word for word in re.findall(r"[\w./%-]+", text) if word not in other}
        assert missing <= {"likewise", "command", "below"}


def test_a_page_says_which_part_of_a_file_was_taken(tmp_path: Path) -> None:
    """A verdict that is for one part alone must not look like that of the whole file."""
    model = str(SAMPLES / "ema-initial-buffers.pt")
    for format_ in ("markdown", "html"):
        report = tmp_path / f"report.{format_}"
        assert run(["inspect", model, "--report", f"{format_}:{report}"]) == 0
        assert "using model; --key selects another: ema (broken)" in words(report.read_text())


def test_a_layer_found_twice_is_one_layer_and_both_are_told() -> None:
    found = tuple(
        Finding("BN304", "late-shift", Severity.WARNING, layer, message, f"fix {message}")
        for layer, message in (("a", "jumps at 5"), ("a", "jumps at 9"), ("b", "jumps at 5"),
                               ("b", "jumps at 9"))
    )  # fmt: skip
    document = Document("drift", "x", "suspect", Severity.WARNING, findings=found)
    console = Console(file=io.StringIO(), width=100)
    plain.show(console, Pages((document,)), verbose=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "late-shift in 2 layers" in text
    assert "a: jumps at 5" in text
    assert "a: jumps at 9" in text
    assert re.search(r"likewise: b$", text, re.MULTILINE)
