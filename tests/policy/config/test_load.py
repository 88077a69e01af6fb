"""[tool.bncheck]: what is found, what is refused, and on which line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.core.findings import FailOn, Severity
from bncheck.policy.config.find import load
from bncheck.policy.config.lines import line_of
from bncheck.policy.config.load import schema
from bncheck.policy.config.settings import Ignored

FULL = """\
[project]
name = "net"

[tool.bncheck]
select = ["BN1", "stale-statistics"]
fail-on = "warning"
ignore = ["BN109", { rule = "BN101", layers = "aux.*", reason = "unused" }]
baseline = "known.json"

[tool.bncheck.severity]
BN107 = "error"

[tool.bncheck.thresholds]
w2-warning = 1

[tool.bncheck.models.net]
checkpoint = ["a.pt", "runs/*.pt"]
model = "nets.py:build"
model-args = { depth = 20, kind = "x", wide = true, rate = 0.5 }
mean = [0.5]
size = [32, 32]
input = "3,32,32"
inspect = { w2-error = 0.6 }
fold = { fail-unfolded = true, keep = ["stem.*"] }
drift = "runs/*.pt"
"""


def test_a_full_table_becomes_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text(FULL)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    found = load(None, isolated=False)
    assert found is not None
    assert found.file == tmp_path / "pyproject.toml"
    assert found.resolve("a.pt") == tmp_path / "a.pt"
    s = found.settings
    assert s.fail_on is FailOn.WARNING
    assert s.ignored_rules == ("BN109",)
    assert s.exceptions == (Ignored("BN101", "aux.*", "unused"),)
    assert s.severity == {"BN107": Severity.ERROR}
    net = s.models["net"]
    assert net.checkpoint == ("a.pt", "runs/*.pt")
    assert net.model_args == {"depth": 20, "kind": "x", "wide": True, "rate": 0.5}
    assert net.fold is not None
    assert net.fold.keep == ("stem.*",)
    assert load(None, isolated=True) is None
    jsonschema.validate(tomllib.loads(FULL)["tool"]["bncheck"], schema())


NET = "[tool.bncheck.models.net]\n"
REFUSED = [
    ("[tool.bncheck]\nfial-on = 'error'\n", 2, "fial-on", "did you mean fail-on?"),
    ("[tool.bncheck]\nselect = ['BN1',\n'BN991']\n", 2, "BN991", "rule --all"),
    ("[tool.bncheck]\nignore = ['dead-chanels']\n", 2, "dead-chanels", "dead-channels"),
    ("[tool.bncheck]\nselect = 'BN1'\n", 2, "select", "a list"),
    ("[tool.bncheck]\nfail-on = 'warn'\n", 2, "fail-on", "'error', 'warning' or 'never'"),
    ("[tool.bncheck]\n[tool.bncheck.severity]\n# x\nBN999 = 'error'\n", 4, "BN999", "rule --all"),
    ("[tool.bncheck.severity]\nBN101 = 'bad'\n", 2, "severity.BN101", "'info'"),
    ("[tool.bncheck.thresholds]\nw2-warning = -1\n", 2, "w2-warning", "greater than 0"),
    (NET + "checkpiont = 'a'\n", 2, "checkpiont", "did you mean checkpoint?"),
    (NET + "checkpoint = 3\n", 2, "checkpoint", "a string or a list"),
    (NET + "model = 'a:b'\n", 1, "checkpoint", "add it"),
    (NET + "checkpoint = 'a'\nsamples = '3'\n", 3, "samples", "an integer"),
    (NET + "checkpoint = 'a'\nfold = { keeep = [] }\n", 3, "keeep", "did you mean keep?"),
    (NET + "checkpoint = 'a'\n\n[tool.bncheck.models.net.fold]\nkeeep = []\n", 5, "keeep", "keep?"),
    (
        "[[tool.bncheck.ignore]]\nrule = 'BN101'\nlayers = '*'\nreason = ''\n"
        "[[tool.bncheck.ignore]]\nrule = 'BN101'\nlayer = '*'\nreason = ''\n",
        7,
        "layer",
        "did you mean layers?",
    ),
    ("[tool]\nbncheck = 3\n", 2, "bncheck", "a table"),
]


@pytest.mark.parametrize(("text", "line", "names", "says"), REFUSED, ids=range(len(REFUSED)))
def test_an_unknown_key_is_refused_with_its_line(
    text: str, line: int, names: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(BncheckError) as caught:
        load(None, isolated=False)
    assert str(caught.value).startswith(f"pyproject.toml:{line}: ")
    assert names in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[tool.bncheck\n", "bncheck = \x00", "[tool.other]\n# bncheck\n"])
def test_a_named_file_must_have_the_table(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(text)
    with pytest.raises(BncheckError, match=r"other\.toml"):
        load(path, isolated=False)


DEEP = "[" * 100_000


def test_hostile_files_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests import small

    small.healthy(tmp_path / "net.safetensors")
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    contents = {
        "deep.toml": f"[tool.bncheck]\nselect = {DEEP}",
        "number.toml": f"[tool.bncheck]\nselect = {'1' * 5000}",
        "latin.toml": "[tool.bncheck]\n# \xe9",
        "deep.json": DEEP,
        "number.json": "1" * 5000,
        "steering.toml": '[tool.bncheck]\n"\\u001b]0;x\\u0007\\n::error::y" = 1\n',
    }
    for name, text in contents.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    for path in (*contents, "pipe", "/dev/zero", "."):
        option = "--baseline" if path.endswith(".json") else "--config"
        assert run(["inspect", "net.safetensors", "--quiet", option, path]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.removesuffix("\n").isprintable()
        assert err.startswith("bncheck: error: ")
        assert Path(path).name in err
        assert "bug" not in err


KEYS = st.text("abc-", min_size=1, max_size=3)
VALUES = st.one_of(
    st.integers(), st.text("ab\n[=\"'#", max_size=6), st.lists(st.integers(), max_size=3)
)


@given(st.lists(st.tuples(KEYS, VALUES, st.integers(0, 2)), unique_by=lambda entry: entry[0]))
@settings(max_examples=80, deadline=None)
def test_every_key_is_found_on_the_line_on_which_it_was_written(
    entries: list[tuple[str, int | str | list[int], int]],
) -> None:
    lines: list[str] = ["[[t.a]]", "x = 1", "[[t.a]]"]
    where: dict[str, int] = {}
    for key, value, blank in entries:
        lines += ["# x = 1"] * blank
        where[key] = len(lines) + 1
        if isinstance(value, str) and "'" not in value:
            lines += f"\"{key}\" = '''\n{value}'''".split("\n")
        elif isinstance(value, list):
            lines += [f'"{key}" = [', *(f"  {item}," for item in value), "]"]
        else:
            lines.append(f'"{key}" = {json.dumps(value)}')
    text = "\n".join([*lines, ""])
    tomllib.loads(text)
    for key, line in where.items():
        assert line_of(text, ("t", "a", 1, key)) == line
    assert line_of(text, ("t", "a", 0, "x")) == 2
    assert line_of(text, ("t", "a", 1)) == 3
    assert line_of(text, ("nowhere",)) is None


def test_without_a_configuration_nothing_heavy_is_imported(tmp_path: Path) -> None:
    """Nor is torch with one, for what files alone can say."""
    from tests import small

    small.healthy(tmp_path / "net.safetensors")
    code = (
        "import sys; from bncheck.cli import run; code = run(sys.argv[1:]);"
        "print([m for m in ('torch', 'pydantic', 'jinja2', 'plotly') if m in sys.modules], code)"
    )

    def loaded(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments, "--quiet"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    assert loaded("inspect", "net.safetensors") == "[] 0\n"
    (tmp_path / "pyproject.toml").write_text(NET + "checkpoint = '*.safetensors'\n")
    assert loaded("gate") == "[] 0\n"


@pytest.mark.parametrize(
    "address",
    ["https://x\\u001b[31m", "https://x\\n::error::y", 'https://x\\"><b>', "https://" + "a" * 9999],
)
def test_an_address_of_the_documentation_steers_no_log(address: str, tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(f'[tool.bncheck]\ndocs-url = "{address}"\n')
    found = load(file, isolated=False)
    assert found is not None
    with pytest.raises(BncheckError, match="plain characters"):
        _ = found.policy


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc", "//x", "docs", ""])
def test_only_an_address_is_the_documentation_s(url: str, tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(f"[tool.bncheck]\ndocs-url = {url!r}\n")
    with pytest.raises(BncheckError, match="https://"):
        _ = load(file, isolated=False).policy  # type: ignore[union-attr]
    file.write_text('[tool.bncheck]\ndocs-url = "https://docs.example/"\n')
    found = load(file, isolated=False)
    assert found is not None
    assert found.policy.docs_url == "https://docs.example/"
