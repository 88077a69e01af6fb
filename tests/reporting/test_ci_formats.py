"""Every way that a gate can end, in every format: exit code, document, layer, streams."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.reporting.document import Document, Fact, Group, Pages, Table
from bncheck.reporting.formats import Format, Said, render
from tests import small
from tests.reporting import validity

#: All but the picture that only drift has.
FORMATS = [f.value for f in Format if f is not Format.SVG]
#: Name: exit codes for --fail-on error, warning, never without a baseline, and the layer at fault.
CASES = {
    "healthy": ((0, 0, 0), None),
    "warning": ((0, 1, 0), "bn2"),
    "broken": ((1, 1, 0), "bn2"),
    "missing": ((2, 2, 2), None),
    "unreadable": ((2, 2, 2), None),
    "crash": ((2, 2, 2), None),
}
CONFIGURATION = """
[tool.bncheck.severity]
BN109 = "warning"
[tool.bncheck.models.net]
checkpoint = "net.safetensors"
"""
CRASH = 'model = "nets.py:build"\ndata = "nets.py:build"\n'


def write_case(name: str, folder: Path) -> None:
    """A folder in which `bncheck gate` ends like this."""
    path = folder / "net.safetensors"
    extra = ""
    if name == "warning":
        small.dead(path)
    elif name == "broken":
        small.broken(path)
    elif name == "unreadable":
        path.write_bytes(b"<html>not found</html>")
    elif name != "missing":
        small.healthy(path)
    if name == "crash":
        extra = CRASH
        (folder / "nets.py").write_text(
            'def build():\n    raise ValueError("no\\n::error::luck")\n'
        )
    (folder / "pyproject.toml").write_text(CONFIGURATION + extra)


@pytest.mark.parametrize(("case", "format_"), list(itertools.product(CASES, FORMATS)))
def test_every_ending_in_every_format(
    case: str,
    format_: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_case(case, tmp_path)
    codes, layer = CASES[case]
    written = run(["gate", "--write-baseline", "known.json", "--format", format_])
    assert written == (2 if codes[0] == 2 else 0)
    assert (tmp_path / "known.json").exists() == (written == 0)
    if written == 2:  # nothing is written on an error: here is one that knows nothing
        empty = {"schema": "bncheck.baseline/1", "findings": []}
        (tmp_path / "known.json").write_text(json.dumps(empty))
    capsys.readouterr()
    for (fail_on, code), known in itertools.product(
        zip(("error", "warning", "never"), codes, strict=True), (False, True)
    ):
        options = ["--baseline", "known.json"] if known else []
        outputs = set()
        for _ in range(2):
            got = run(["gate", "--format", format_, "--fail-on", fail_on, *options])
            out, err = capsys.readouterr()
            assert got == (0 if known and code == 1 else code)
            validity.check(format_, out)
            outputs.add(out)
        assert len(outputs) == 1  # the same input, the same bytes
        if layer and not known:
            assert layer in out
            assert ("BN102" if case == "broken" else "BN109") in out
        errors = [line for line in err.splitlines() if "error:" in line]
        assert len(errors) == (code == 2)
        assert all(line.startswith("bncheck: ") for line in err.splitlines())
        if code == 2:
            assert "net.safetensors" in errors[0] or "nets.py:build" in errors[0]


def test_a_name_is_no_link_in_sarif() -> None:
    """Viewers make a link of `[words](target)` in any message; a backslash says that it is none."""
    name = "[read this](http://evil.example)"
    finding = Finding("BN102", "x", Severity.ERROR, name, "bad", "none")
    document = Document("inspect", "net.pt", "broken", Severity.ERROR, findings=(finding,))
    error = BncheckError(name, "fix it")
    report = json.loads(render(Format.SARIF, of([document], [error])))["runs"][0]
    notes = report["invocations"][0]["toolExecutionNotifications"]
    for said in (*report["results"], *notes):
        assert r"\[read this\](http" in said["message"]["text"]
    assert report["results"][0]["properties"]["layer"] == name


@pytest.mark.parametrize("fail_on", ["error", "warning", "never"])
def test_a_junit_failure_is_what_fails(
    fail_on: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_case("warning", tmp_path)
    code = run(["gate", "--format", "junit", "--fail-on", fail_on])
    assert ("<failure" in capsys.readouterr().out) == (code == 1)


EVIL = [
    "a\n::error::forged",
    "::stop-commands::x",
    "##[error]forged",
    "x\r\n::add-mask::bn",
    "\x1b]0;owned\x07\x1b[31mred",
    "\u202egpj.exe",
    "| a | b |",
    "`code` <img src=x onerror=alert(1)>",
    "</code></details><script>alert(1)</script>",
    "[link](http://evil.example) ![pic](http://evil.example/x.png)",
    "http://evil.example @everyone #1 :smile:",
    "]]></failure><!-- & -->",
    '"},{"severity":"info',
    "=cmd|' /C calc'!A0",
    "\ud800lone",
    "%0A::error::x,title=y::z",
    "",
    " ",
    "\\",
    "$x$ ~~y~~ **z** __w__",
]


def document_of(name: str) -> Document:
    """A document that says this name wherever a name can be."""
    found = [
        Finding(
            "BN102", "non-finite-statistics", severity, name, f"{name} is bad", f"fix {name}",
            {name or "x": name},
        )
        for severity in Severity
    ]  # fmt: skip
    table = Table("Layers", ("layer", name), ((name, name),), (name,), name, rest=name)
    fact = Fact(name, name)
    group = Group(name, Severity.INFO, name, ((name, name), (None, name)), (name,), "BN402")
    return Document(
        "inspect", name, "broken", Severity.ERROR, (fact,), tuple(found), (table,), (), (fact,),
        (name,), (name,), (group,), model=name,
    )  # fmt: skip


def of(documents: Sequence[Document], errors: Sequence[BncheckError] = (), last: str = "") -> Said:
    data = {"findings": [finding.to_dict() for d in documents for finding in d.findings]}
    return Said(lambda: {**data, last: last}, lambda: Pages(tuple(documents), errors, last))


def evil(name: str) -> Said:
    """Such documents, an error and a last line."""
    error = BncheckError(f"{name} is odd", f"try {name}", name)
    return of([document_of(name)] * 2, [error], name)


RENDERED = FORMATS


@pytest.mark.parametrize("format_", RENDERED)
@pytest.mark.parametrize("name", EVIL, ids=ascii)
def test_no_name_forges_anything(name: str, format_: str) -> None:
    validity.check(format_, render(Format(format_), evil(name)))


@pytest.mark.parametrize("format_", [f for f in RENDERED if f != "html"])
@given(st.lists(st.sampled_from([*"\n\r`|<>&%:#[]()!*_\\\"'@$~ab \x1b\x00\u2028", "::", "##["])))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
def test_nor_does_any_mixture_of_their_characters(format_: str, parts: list[str]) -> None:
    validity.check(format_, render(Format(format_), evil("".join(parts))))


def test_annotations_are_capped_and_say_how_many_are_left_out() -> None:
    findings = tuple(
        Finding("BN102", "non-finite-statistics", severity, f"bn{i}", "bad", "fix")
        for severity in (Severity.ERROR, Severity.WARNING)
        for i in range(30)
    )
    document = Document("inspect", "net.pt", "broken", Severity.ERROR, (), findings)
    text = render(Format.GITHUB, of([document]))
    assert text.count("::error ") == text.count("::warning ") == 10
    assert text.count("+21 more") == 2


def test_markdown_stays_within_a_megabyte_and_says_what_is_missing() -> None:
    finding = Finding("BN102", "non-finite-statistics", Severity.ERROR, "n" * 190, "m" * 900, "f")
    document = Document("inspect", "net.pt", "broken", Severity.ERROR, (), (finding,) * 3000)
    text = render(Format.MARKDOWN, of([document]))
    validity.check("markdown", text)
    assert len(text.encode()) > 800_000
    assert "more tables" in text


def test_an_error_of_the_configuration_is_at_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('\n[tool.bncheck.models.a]\ncheckpoint = "x*.pt"\n')
    assert run(["gate", "--format", "gitlab"]) == 2
    (issue,) = json.loads(capsys.readouterr().out)
    assert issue["location"] == {"path": "pyproject.toml", "lines": {"begin": 3}}
    assert run(["gate", "--format", "github"]) == 2
    assert capsys.readouterr().out.startswith("::error file=pyproject.toml,line=3,title=")


def test_several_models_are_told_apart_and_lines_are_lines() -> None:
    documents = [
        Document("inspect", "net.pt", "healthy", None, (Fact("one"), Fact("two")), model=name)
        for name in ("student", "teacher")
    ]
    both = of(documents, [BncheckError("is odd", "try x", "y")])
    for format_ in (Format.MARKDOWN, Format.HTML, Format.JUNIT, Format.GITHUB):
        text = render(format_, both)
        assert "student" in text
        assert "teacher" in text
    markdown = render(Format.MARKDOWN, both)
    assert "|`student`|`net.pt`|inspect|healthy|none|" in markdown
    assert "one\\\ntwo" in markdown
    page = render(Format.HTML, both)
    assert (
        page.index("Could not be done")
        < page.index('href="#report-2"')
        < page.index('id="report-2"')
    )


def test_paths_are_relative_to_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ml").mkdir()
    small.broken(tmp_path / "ml" / "a b.safetensors")
    monkeypatch.chdir(tmp_path / "ml")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    found = {}
    for format_ in ("sarif", "gitlab", "github"):
        assert run(["inspect", "a b.safetensors", "--format", format_]) == 1
        found[format_] = capsys.readouterr().out
    (result,) = json.loads(found["sarif"])["runs"][0]["results"]
    place = result["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "ml/a%20b.safetensors"
    assert place["logicalLocations"][0]["fullyQualifiedName"] == "bn2"
    assert json.loads(found["gitlab"])[0]["location"]["path"] == "ml/a b.safetensors"
    assert "file=ml/a b.safetensors," in found["github"]
