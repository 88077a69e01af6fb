"""Words of a command line, a configuration or a file steer nothing, whatever they are and where."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import onnx
import pytest

from bncheck.cli import run
from tests import small
from tests.hostile.check import hidden
from tests.hostile.names import NAMES
from tests.planted import SAMPLES
from tests.reporting import validity
from tests.zoo.onnx_models import onnx_model, onnx_norm, onnx_values

#: All that is evil in one word, and one that is too long.
EVIL = "\n::error::x\r##[group]\x1b]0;owned\x07\x1b[31m\u202e\u2066[red]\u2028\x85z"
WORDS = {"steering": EVIL, "megabyte": NAMES["megabyte"]}

_ONNX, _PROGRAM = str(SAMPLES / "healthy.onnx"), str(SAMPLES / "healthy.pt2")
_FILE = str(SAMPLES / "healthy.pt")
_MODULE = str(SAMPLES / "under-warmed-module.pt")
#: Command lines in which WORD is that word; each is an error.
LINES = (
    "WORD", "--WORD", "rule WORD", "inspect --WORD", "inspect WORD", "inspect FILE --key WORD",
    "inspect FILE --select WORD", "inspect FILE --format WORD", "inspect FILE --report WORD",
    "inspect FILE --report json:/absent/WORD", "inspect FILE --baseline WORD",
    "inspect FILE --config WORD", "inspect FILE --model WORD", "inspect FILE --model WORD:x",
    "inspect FILE --eps WORD", "inspect FILE --model WORD.py:x",
    "inspect ONNX --data WORD", "inspect MODULE --data WORD.npz --trust",
    "gate --init --config /absent/WORD", "gate WORD", "gate --against WORD", "gate -o /absent/WORD",
    "drift WORD FILE", "drift FILE FILE --key WORD", "drift FILE FILE --order WORD",
    "drift FILE FILE --reference WORD", "drift FILE FILE -o /absent/WORD",
    "recalibrate WORD -o x.pt", "recalibrate MODULE -o /absent/WORD", "fold WORD -o x.onnx",
    "fold ONNX -o x.onnx --keep WORD", "fold ONNX -o /absent/WORD.onnx", "compare WORD ONNX",
    "compare ONNX WORD", "compare ONNX ONNX --input WORD", "export WORD -o x.onnx",
    "export PROGRAM -o x.onnx --dynamic WORD", "export FILE -o x.onnx --model WORD",
)  # fmt: skip


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Both streams, of which nothing steers a terminal, a CI runner or the reader's eye."""
    out, err = capsys.readouterr()
    for line in (*out.splitlines(), *err.splitlines()):
        assert not hidden(line), line
        assert "##[" not in line
        assert not line.lstrip().startswith("::"), line
        assert len(line) < 6000
    assert all(line.startswith("bncheck: ") for line in err.splitlines()), err
    return str(out + err)


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("kind", WORDS)
def test_words_of_a_command_line(
    kind: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(f"[tool.bncheck.models.net]\ncheckpoint = '{_FILE}'\n")
    names = {"FILE": _FILE, "ONNX": _ONNX, "PROGRAM": _PROGRAM, "MODULE": _MODULE}
    words = [names.get(word, word).replace("WORD", WORDS[kind]) for word in line.split()]
    assert run(words) == 2
    text = said(capsys)
    assert text.count("bncheck: error: ") == 1
    assert "bug in bncheck" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["pyproject.toml"]


#: Configurations that hold the word where a file may hold any.
CONFIGURATIONS = {
    "key": "[tool.bncheck]\nWORD = 1\n",
    "table": "[tool.bncheck.WORD.WORD]\na = 1\n",
    "key-of-a-model": "[tool.bncheck.models.WORD]\ncheckpoint = 'FILE'\nWORD = 1\n",
    "no-checkpoint": "[tool.bncheck.models.WORD]\nkey = WORD\n",
    "rule": "[tool.bncheck]\nselect = [WORD]\n",
    "severity": "[tool.bncheck.severity]\nWORD = 'error'\n",
    "checkpoint": "[tool.bncheck.models.WORD]\ncheckpoint = WORD\n",
    "pattern": "[tool.bncheck.models.WORD]\ncheckpoint = ['*', WORD]\n",
    "key-in-it": "[tool.bncheck.models.WORD]\ncheckpoint = 'FILE'\nkey = WORD\n",
    "model": "[tool.bncheck.models.WORD]\ncheckpoint = 'FILE'\nmodel = WORD\ndata = 'x.npz'\n",
    "function": "[tool.bncheck.models.net]\ncheckpoint = 'FILE'\nmodel = 'x.py:WORD'\ndata = 'x'\n",
    "drift": "[tool.bncheck.models.WORD]\ncheckpoint = 'FILE'\ndrift = [WORD]\n",
    "data": "[tool.bncheck.models.net]\ncheckpoint = 'FILE'\nmodel = 'x.py:x'\ndata = WORD\n",
    "export": "[tool.bncheck.models.net]\ncheckpoint = 'FILE'\nmodel = 'x.py:x'\nexport = WORD\n",
    "compare": "[tool.bncheck.models.net]\ncheckpoint = 'FILE'\ncompare = WORD\n",
    "baseline": "[tool.bncheck]\nbaseline = WORD\n[tool.bncheck.models.net]\ncheckpoint = 'FILE'\n",
    "value": "[tool.bncheck.models.net]\ncheckpoint = 'FILE'\nsamples = WORD\n",
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("kind", WORDS)
def test_words_of_a_configuration(
    kind: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    word = json.dumps(WORDS[kind], ensure_ascii=True)  # as TOML writes it, too
    text = CONFIGURATIONS[name].replace("'x.py:WORD'", json.dumps(f"x.py:{WORDS[kind]}"))
    text = text.replace("WORD", word).replace("FILE", _FILE)
    (tmp_path / "pyproject.toml").write_text(text)
    assert run(["gate"]) == 2
    text = said(capsys)
    assert "bug in bncheck" not in text
    if name in ("key", "table", "key-of-a-model", "no-checkpoint", "rule", "severity"):
        assert len(text) < 600  # a word that belongs nowhere tells nothing by its length


@pytest.mark.parametrize("kind", WORDS)
def test_names_of_layers_in_other_commands(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tmp_path / "1.safetensors"), str(tmp_path / "2.safetensors")]
    for file in files:
        small.broken(Path(file), WORDS[kind])
    shutil.copy(files[0], tmp_path / "other.safetensors")
    for words in (
        ["drift", *files], ["drift", *files, "--layers", "*", "--verbose"], ["fold", files[0]],
        ["fold", files[0], "-o", str(tmp_path / "x.safetensors")],
        ["recalibrate", files[0], "-o", str(tmp_path / "x.safetensors")],
        ["compare", *files], ["export", files[0], "-o", str(tmp_path / "x.onnx")],
    ):  # fmt: skip
        assert run(words) in (0, 1, 2)
        text = said(capsys)
        assert text
        assert "bug in bncheck" not in text


_MARKUP = "]]></x><script>alert(1)</script>&lt;`|`[l](http://evil)![p](http://evil/x.png)'\"<!--%0A"
_FORMATS = ("json", "sarif", "junit", "gitlab", "github", "markdown", "html")


@pytest.mark.parametrize(
    ("command", "format_"),
    [*itertools.product(("inspect", "drift", "fold", "compare"), _FORMATS), ("drift", "svg")],
)
def test_documents_about_evil_names_are_valid(
    command: str, format_: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = _MARKUP + EVIL
    file = tmp_path / "model.onnx"
    onnx.save(onnx_model([onnx_norm(name, "x", "y")], onnx_values(name)), file)
    if command in ("inspect", "drift"):
        file = small.broken(tmp_path / "1.safetensors", name)
    other = shutil.copy(file, tmp_path / f"2{file.suffix}")
    rest = {"inspect": [], "fold": ["-o", str(tmp_path / "x.onnx")]}
    files = [str(file), *rest.get(command, [str(other)])]
    assert run([command, *files, "--format", format_]) in (0, 1)
    out, err = capsys.readouterr()
    assert not [line for line in err.splitlines() if not line.startswith("bncheck: note: ")]
    assert not hidden(err)
    validity.check(format_, out)
    assert "alert" in out or format_ in ("github", "svg") or command == "compare"
