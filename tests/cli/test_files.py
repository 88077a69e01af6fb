"""No output of any command is one of its inputs, and no two outputs are one file."""

from __future__ import annotations

import ast
import os
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from bncheck.cli import run
from bncheck.cli.app import COMMANDS
from bncheck.core.usercode import files_of_spec
from tests import small
from tests.hostile.check import fingerprint
from tests.planted import SAMPLES
from tests.zoo.onnx_models import onnx_external_data

CONFIG = """
[tool.bncheck]
baseline = "configured.json"
[tool.bncheck.models.net]
checkpoint = "*.safetensors"
model = "code.py:build"
data = "data.npz"
drift = "snapshots/*.pt"
compare = "other.onnx"
export = "made.onnx"
"""
BASELINE = '{"schema": "bncheck.baseline/1", "bncheck": "0", "findings": []}'
MODEL = ["--model", "code.py:build"]
DATA = ["--data", "data.npz"]

#: Words of a command line, and a file that it reads.
READ = {
    "checkpoint": (["inspect", "x.pt"], "x.pt"),
    "second": (["inspect", "x.pt", "net.safetensors"], "net.safetensors"),
    "shard": (["inspect", "sharded"], "sharded/model-00001-of-00002.safetensors"),
    "index": (["inspect", "sharded"], "sharded/model.safetensors.index.json"),
    "shard-of-index": (
        ["inspect", "sharded/model.safetensors.index.json"],
        "sharded/model-00002-of-00002.safetensors",
    ),
    "metadata": (["inspect", "distributed"], "distributed/.metadata"),
    "chunks": (["inspect", "distributed"], "distributed/__0_0.distcp"),
    "onnx-data": (["inspect", "external/model.onnx"], "external/model.data"),
    "onnx-data-fold": (["fold", "external/model.onnx", "--dry-run"], "external/model.data"),
    "data": (["inspect", "x.pt", *MODEL, *DATA], "data.npz"),
    "data-folder": (["inspect", "x.pt", *MODEL, "--data", "images"], "images/a/0.png"),
    "data-code": (["inspect", "x.pt", *MODEL, "--data", "code.py:data"], "code.py"),
    "model": (["inspect", "x.pt", *MODEL], "code.py"),
    "module": (["inspect", "x.pt", "--model", "package.nets:build"], "package/nets.py"),
    "package": (["inspect", "x.pt", "--model", "package.nets:build"], "package/__init__.py"),
    "metric": (["inspect", "x.pt", *MODEL, *DATA, "--metric", "metric.py:f"], "metric.py"),
    "config": (["inspect", "x.pt", "--config", "other.toml"], "other.toml"),
    "pyproject": (["inspect", "x.pt"], "pyproject.toml"),
    "baseline": (["inspect", "x.pt", "--baseline", "known.json"], "known.json"),
    "drift": (["drift", "x.pt", "y.pt"], "y.pt"),
    "reference": (["drift", "x.pt", "y.pt", "--reference", "z.pt"], "z.pt"),
    "compare": (["compare", "a.onnx", "b.onnx"], "b.onnx"),
    "fold": (["fold", "x.pt", *MODEL, "--input", "1,8,8", "-o", "new.pt2"], "x.pt"),
    "export": (["export", "x.pt", *MODEL, "--input", "1,8,8", "-o", "new.onnx"], "code.py"),
    "recalibrate": (["recalibrate", "x.pt", *MODEL, *DATA, "-o", "new.pt"], "data.npz"),
    "gate": (["gate"], "pyproject.toml"),
    "gate-checkpoint": (["gate"], "net.safetensors"),
    "gate-model": (["gate"], "code.py"),
    "gate-data": (["gate"], "data.npz"),
    "gate-drift": (["gate"], "snapshots/1.pt"),
    "gate-compare": (["gate"], "other.onnx"),
    "gate-against": (["gate", "--against", "earlier.json"], "earlier.json"),
}  # fmt: skip
#: And what it would write there.
REPORTS = (["--report", "json:OUT"], ["--write-baseline", "OUT"])
ARTIFACTS = (
    ["fold", "IN", *MODEL, "--input", "1,8,8", "-o", "OUT"],
    ["fold", "IN", *MODEL, *DATA, "-o", "OUT"],
    ["export", "IN", *MODEL, *DATA, "-o", "OUT"],
    ["recalibrate", "IN", *MODEL, *DATA, "-o", "OUT"],
    ["recalibrate", "IN", *MODEL, *DATA, "--metric", "metric.py:f", "-o", "OUT"],
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name in ("x.pt", "y.pt", "z.pt"):
        shutil.copy(SAMPLES / "healthy.pt", folder / name)
    for name in ("a.onnx", "b.onnx", "other.onnx"):
        shutil.copy(SAMPLES / "healthy.onnx", folder / name)
    small.healthy(folder / "net.safetensors")
    shutil.copytree(SAMPLES / "healthy-sharded", folder / "sharded")
    shutil.copytree(SAMPLES / "healthy-distributed", folder / "distributed")
    (folder / "snapshots").mkdir()
    shutil.copy(SAMPLES / "healthy.pt", folder / "snapshots" / "1.pt")
    (folder / "external").mkdir()
    onnx_external_data(folder / "external")
    (folder / "images" / "a").mkdir(parents=True)
    (folder / "images" / "a" / "0.png").write_bytes(b"image")
    (folder / "package").mkdir()
    for name in ("code.py", "metric.py", "package/__init__.py", "package/nets.py"):
        (folder / name).write_text("raise SystemExit('imported')\n")
    np.savez(folder / "data.npz", x=np.zeros((2, 1, 8, 8), np.float32))
    (folder / "pyproject.toml").write_text(CONFIG)
    (folder / "other.toml").write_text(CONFIG)
    for name in ("known.json", "configured.json"):
        (folder / name).write_text(BASELINE)
    (folder / "earlier.json").write_text('{"schema": "bncheck.gate/1", "models": []}')
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(source, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def _refused(folder: Path, words: list[str], capsys: pytest.CaptureFixture[str], why: str) -> None:
    before = fingerprint(folder)
    assert run(words) == 2, words
    out, err = capsys.readouterr()
    assert out == ""
    assert why in err, err
    assert err.count("\n") == 1
    assert fingerprint(folder) == before


def _other_names(folder: Path, name: str) -> list[str]:
    """The same file by other ways: hard link, absolute, around, through a linked folder."""
    os.link(folder / name, folder / "hard-link")
    (folder / "linked").symlink_to(".")
    return ["hard-link", str(folder / name), f"snapshots/../{name}", f"linked/{name}"]


@pytest.mark.parametrize("case", READ)
def test_a_report_or_baseline_is_not_an_input(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, name = READ[case]
    others = _other_names(folder, name)
    for out in (name, *(others if case in ("checkpoint", "shard") else others[:1])):
        for options in REPORTS:
            given = [word.replace("OUT", out) for word in options]
            _refused(folder, [*words, *given], capsys, "is also an input")
    if words[0] in ("inspect", "drift", "gate"):
        _refused(folder, [*words, "--format", "json", "-o", name], capsys, "is also an input")


@pytest.mark.parametrize("words", ARTIFACTS, ids=range(len(ARTIFACTS)))
def test_an_artifact_is_not_an_input(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = ["x.pt", "code.py", "pyproject.toml", *[w for w in words if w == "data.npz"]]
    read += ["metric.py"] if "--metric" in words else []
    for name in read:
        for out in (name, *(_other_names(folder, name) if name == "x.pt" else ())):
            given = [{"IN": "x.pt", "OUT": out}.get(word, word) for word in words]
            _refused(folder, given, capsys, "is also an input")
    out = "sharded/model-00001-of-00002.safetensors"
    given = [{"IN": "sharded", "OUT": out}.get(word, word) for word in words]
    _refused(folder, given, capsys, "is also an input")


def test_the_data_of_a_model_of_any_name_are_no_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "external" / "model.onnx").rename(folder / "external" / "model")
    words = ["inspect", "external/model", "--report", "json:external/model.data"]
    _refused(folder, words, capsys, "is also an input")


def test_data_that_an_export_would_remove_are_no_input(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "x.pt").rename(folder / "new.onnx.1.data")
    words = ["export", "new.onnx.1.data", *MODEL, "--input", "1,8,8", "-o", "new.onnx"]
    _refused(folder, words, capsys, "is also an input")


def test_no_report_goes_where_the_data_of_an_export_go(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "x.pt", *MODEL, "--input", "1,8,8", "-o", "new.onnx", "--report"]
    _refused(folder, [*words, "json:new.onnx.data"], capsys, "would be written twice")
    (folder / "new.onnx.data").touch()
    for name in ("new.onnx.data", "new.onnx.1.data"):
        _refused(folder, [*words, f"json:{name}"], capsys, "would be written twice")


@pytest.mark.parametrize("name", ["net.safetensors", "data.npz", "code.py", "pyproject.toml"])
def test_what_the_gate_exports_is_not_an_input(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "pyproject.toml").write_text(CONFIG.replace("made.onnx", name))
    _refused(folder, ["gate"], capsys, "is also an input")
    (folder / "pyproject.toml").write_text(CONFIG)
    _refused(folder, ["gate", "--report", "json:made.onnx"], capsys, "would be written twice")
    second = CONFIG + CONFIG[CONFIG.index("[tool.bncheck.models") :].replace("net]", "two]")
    (folder / "pyproject.toml").write_text(second)
    _refused(folder, ["gate"], capsys, "would be written twice")


@pytest.mark.parametrize(
    "options",
    [
        ["--report", "json:a", "--report", "html:a"],
        ["--report", "json:a", "-o", "./a"],
        ["-o", "a", "--write-baseline", "snapshots/../a"],
        ["--report", "json:there", "--report", "html:hard"],
        ["--report", "json:linked/a", "--write-baseline", "a"],
    ],
    ids=range(5),
)
def test_two_outputs_are_two_files(
    options: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "there").touch()
    os.link(folder / "there", folder / "hard")
    (folder / "linked").symlink_to(".")
    _refused(folder, ["inspect", "x.pt", *options], capsys, "would be written twice")


def test_an_artifact_and_a_report_are_two_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ARTIFACTS:
        given = [{"IN": "x.pt", "OUT": "new.onnx"}.get(word, word) for word in words]
        for options in REPORTS:
            report = [word.replace("OUT", "./new.onnx") for word in options]
            _refused(folder, [*given, *report], capsys, "would be written twice")


def test_links_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "link.onnx").symlink_to("x.pt")
    for options in (*REPORTS, ["--format", "json", "-o", "OUT"]):
        given = [word.replace("OUT", "link.onnx") for word in options]
        _refused(folder, ["inspect", "y.pt", *given], capsys, "is a symbolic link to")
    for words in ARTIFACTS:
        given = [{"IN": "y.pt", "OUT": "link.onnx"}.get(word, word) for word in words]
        _refused(folder, given, capsys, "is a symbolic link to")


@pytest.mark.parametrize("name", ["a\\u0000b", "absent/net.onnx", "x/", "n" * 300])
def test_an_impossible_export_is_a_line(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "pyproject.toml").write_text(CONFIG.replace("made.onnx", name))
    before = fingerprint(folder)
    assert run(["gate", "--report", "json:known.json"]) == 2
    err = capsys.readouterr().err
    assert "bug in bncheck" not in err
    (folder / "known.json").write_text(BASELINE)
    assert fingerprint(folder) == before


def test_a_copy_of_a_folder_is_not_made_within_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "linked").symlink_to("sharded")
    for out in ("sharded/copy", "linked/copy"):
        words = ["recalibrate", "sharded", *MODEL, *DATA, "-o", out]
        _refused(folder, words, capsys, "is inside the folder that it is a copy of")


def test_init_writes_into_no_other_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty.pt").touch()
    for name in ("empty.pt", "x.pt", "code.py"):
        _refused(folder, ["gate", "--init", "--config", name], capsys, "does not end in .toml")


@pytest.mark.parametrize(
    "spec", ["data.npz", "images", "absent", ":", "a:", ":b", "os:x", "a..b:c"]
)
def test_a_spec_names_no_folder_around_it(spec: str, folder: Path) -> None:
    named = {path.resolve() for path in files_of_spec(spec)}
    assert not named & {folder, *folder.parents, folder / "x.pt"}


def test_a_report_in_a_folder_that_is_read_is_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder / "sharded")
    words = ["inspect", "."]
    for format_, name in (("json", "r.json"), ("html", "r.html"), ("markdown", "r.md")):
        words += ["--report", f"{format_}:{name}"]
    for _ in range(2):
        assert run([*words, "--write-baseline", "known.json"]) == 0
    capsys.readouterr()
    for name in ("config.json", "README.md", "vocab.txt", "code.py"):
        (folder / "sharded" / name).write_text("{}")
        format_ = "markdown" if name.endswith(".md") else "json"
        words = ["inspect", ".", "--report", f"{format_}:{name}"]
        _refused(folder, words, capsys, "is also an input")


def test_a_file_that_is_not_an_input_is_replaced(folder: Path) -> None:
    """An earlier report beside the checkpoint, and the baseline that is written anew."""
    (folder / "report.json").write_text("old")
    (folder / "sharded" / "notes.html").write_text("old")
    words = ["inspect", "x.pt", "--report", "json:report.json", "--report"]
    assert run([*words, "html:sharded/notes.html", "--write-baseline", "configured.json"]) == 0
    assert (folder / "report.json").read_text().startswith("{")
    assert "<html" in (folder / "sharded" / "notes.html").read_text()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "rule"])
def test_every_command_holds_its_files_against_each_other(name: str) -> None:
    source = Path(import_module(f"bncheck.cli.{name}").__file__ or "").read_text()
    called = {ast.unparse(n.func) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)}
    assert "check_files" in called
