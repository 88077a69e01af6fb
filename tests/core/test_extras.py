"""Without the libraries of the extras every command line says what is missing and how to get it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bncheck.core import extras

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_models"
MODEL = ("--model", f"{SAMPLES}/nets.py:DigitNet")
DATA = ("--data", f"{SAMPLES}/digits-train.npz")
SNAPSHOTS = tuple(f"{SAMPLES}/snapshots/epoch-{epoch:03}.pt" for epoch in (1, 20))

#: What needs something, and the first thing that it needs.
COMMANDS = (
    (("inspect", f"{SAMPLES}/stale.pt", *MODEL), "torch"),
    (("inspect", f"{SAMPLES}/stale.pt", *MODEL, *DATA), "torch"),
    (("inspect", f"{SAMPLES}/healthy-module.pt", "--trust"), "torch"),
    (("inspect", f"{SAMPLES}/stale.pt", "--format", "html"), "jinja2 and plotly"),
    (("inspect", f"{SAMPLES}/stale.pt", "--report", "html:{}/x.html"), "jinja2 and plotly"),
    (("recalibrate", f"{SAMPLES}/stale.pt", *MODEL, *DATA, "-o", "{}/x.pt"), "torch"),
    (("drift", *SNAPSHOTS, *MODEL, *DATA), "torch"),
    (("drift", *SNAPSHOTS, "--format", "html", "-o", "{}/x.html"), "jinja2 and plotly"),
    (("fold", f"{SAMPLES}/stale.pt", *MODEL, "--input", "1,8,8", "--dry-run"), "torch"),
    (("fold", f"{SAMPLES}/healthy.pt2", "-o", "{}/x.pt2"), "torch"),
    (("fold", f"{SAMPLES}/healthy.onnx", *DATA, "--dry-run"), "torch"),
    (("export", f"{SAMPLES}/healthy.pt2", "-o", "{}/x.onnx"), "torch, onnxscript and onnxruntime"),
    (("compare", f"{SAMPLES}/healthy.pt2", f"{SAMPLES}/healthy.onnx"), "torch"),
    (("compare", *(f"{SAMPLES}/healthy.pt",) * 2, *MODEL, "--input", "1,8,8"), "torch"),
    (("gate", "--config", "{}/pyproject.toml"), "torch"),
)
#: What needs none of them, with its exit code.
SUFFICIENT = (
    (("inspect", f"{SAMPLES}/healthy.pt2"), 0),
    (("drift", *SNAPSHOTS), 0),
    (("fold", f"{SAMPLES}/healthy.onnx", "-o", "{}/folded.onnx"), 0),
    (("rule", "BN101"), 0),
)
_PROGRAM = """
import contextlib, io, json, sys
blocked, commands = json.loads(sys.stdin.read())
sys.modules.update(dict.fromkeys(blocked))
from bncheck.cli import run
results = []
for command in commands:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(command)
    results.append((code, err.getvalue()))
print(json.dumps(results))
"""


def test_every_command_line_that_needs_an_extra_says_so_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.bncheck.models.m]\ncheckpoint = "{SAMPLES}/stale.pt"\n'
        f'model = "{MODEL[1]}"\ndata = "{DATA[1]}"\n'
    )
    commands = [[word.format(tmp_path) for word in words] for words, _ in (*COMMANDS, *SUFFICIENT)]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps([list(extras.LIBRARIES), commands]),
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    results = json.loads(done.stdout)
    for (words, what), (code, said) in zip(COMMANDS, results, strict=False):
        assert code == 2, (words, said)
        last = said.splitlines()[-1]
        assert f" needs {what}, which " in last, (words, said)
        assert " install " in last, said
    for (words, code), result in zip(SUFFICIENT, results[len(COMMANDS) :], strict=True):
        assert result[0] == code, (words, result)
    assert {path.name for path in tmp_path.iterdir()} == {"pyproject.toml", "folded.onnx"}


def test_the_table_holds_what_pyproject_says() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for library in extras.LIBRARIES.values():
        wanted = declared["optional-dependencies"][library.extra]
        assert library.requirement in [w.partition(" ")[0] for w in wanted]


def _installed(folder: Path, direct_url: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of bncheck's metadata before the real one, and no pip of the environment."""
    info = folder / "bncheck-9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bncheck\nVersion: 9\n")
    if direct_url is not None:
        (info / "direct_url.json").write_text(json.dumps(direct_url))
    monkeypatch.syspath_prepend(str(folder))
    (folder / "bin").mkdir()
    for name in ("python", "pip"):
        (folder / "bin" / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
    monkeypatch.setenv("PATH", str(folder / "bin"))
    monkeypatch.setattr(sys, "platform", "linux")
    extras._origin.cache_clear()


CPU = "https://download.pytorch.org/whl/cpu"


@pytest.mark.parametrize(
    ("direct_url", "line"),
    [
        (None, "pip install 'bncheck[torch]'"),
        ({"url": "file://{}", "dir_info": {"editable": True}}, "pip install -e '{}[torch]'"),
        ({"url": "file://{}", "dir_info": {}}, "pip install '{}[torch]'"),
        ({"url": "file:///gone", "dir_info": {}}, "pip install 'torch>=2.10'"),
        ({"url": "file:///b.whl", "archive_info": {}}, "pip install 'torch>=2.10'"),
        ({"url": "https://x/y", "vcs_info": {"vcs": "git"}}, "pip install 'torch>=2.10'"),
    ],
)  # fmt: skip
def test_the_line_fits_what_was_installed_with_pip(
    direct_url: dict[str, object] | None,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "pyproject.toml").touch()
    if direct_url is not None:
        direct_url = {**direct_url, "url": str(direct_url["url"]).format(tmp_path)}
    _installed(tmp_path / "site", direct_url, monkeypatch)
    wanted = f"{line.format(tmp_path)} (without a GPU add --extra-index-url {CPU})"
    assert extras.install_line(["torch"]) == wanted
    extras._origin.cache_clear()


@pytest.mark.parametrize(
    ("mark", "line"),
    [
        ("pipx_metadata.json", "pipx inject site 'pillow>=10'"),
        # uv replaces all that it was told before.
        (
            "uv-receipt.toml",
            "uv tool install --with 'jinja2>=3.1' --with 'pillow>=10' git+https://x/y",
        ),
    ],
)
def test_the_line_is_that_of_the_tool_which_keeps_this_copy(
    mark: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site"
    _installed(folder, {"url": "https://x/y", "vcs_info": {"vcs": "git"}}, monkeypatch)
    (folder / mark).touch()
    for name in extras.LIBRARIES.keys() - {"jinja2"}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "prefix", str(folder))
    assert extras.install_line(["PIL"]) == line
    extras._origin.cache_clear()


def test_another_environment_s_pip_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed(tmp_path / "site", None, monkeypatch)
    (tmp_path / "site" / "bin" / "pip").unlink()
    line = extras.install_line(["PIL"])
    assert line == f"{tmp_path}/site/bin/python -m pip install 'bncheck[images]'"
    extras._origin.cache_clear()
