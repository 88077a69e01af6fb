"""Known findings: what is said of those that are gone, whatever wraps the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bncheck.cli import run
from tests import small
from tests.networks import SAMPLES

NET = '[tool.bncheck.models.{0}]\ncheckpoint = "{0}.safetensors"\n'
EXCEPT = '[[tool.bncheck.ignore]]\nrule = "BN102"\nlayers = "{}"\nreason = "known"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small.broken(tmp_path / "net.safetensors")
    (tmp_path / "pyproject.toml").write_text(NET.format("net"))
    assert run(["gate", "--write-baseline", "known.json"]) == 0
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = run(list(arguments))
    return code, capsys.readouterr().err


KNOWN = ("gate", "--baseline", "known.json")


def test_what_a_clean_model_no_longer_has_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.healthy(folder / "net.safetensors")
    code, err = said(capsys, *KNOWN)
    assert code == 0
    assert "known.json: no longer found: BN102 bn2 of net; --write-baseline drops them" in err


def test_nothing_is_gone_that_was_not_looked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.healthy(folder / "net.safetensors")
    assert said(capsys, *KNOWN, "--ignore", "BN102") == (0, "")
    assert said(capsys, *KNOWN, "--ignore", "non-finite-statistics") == (0, "")
    (folder / "net.safetensors").write_bytes(b"")
    code, err = said(capsys, *KNOWN)
    assert code == 2
    assert "no longer found" not in err


def test_an_unreadable_file_makes_no_known_finding_gone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", "net.safetensors", "--write-baseline", "known.json"]) == 0
    small.healthy(folder / "good.safetensors")
    (folder / "net.safetensors").write_bytes(b"")
    code, err = said(
        capsys, "inspect", "good.safetensors", "net.safetensors", "--baseline", "known.json"
    )
    assert code == 2
    assert "no longer found" not in err


def test_what_only_data_show_is_not_gone_without_data(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = ["inspect", str(SAMPLES / "stale.pt"), "--isolated"]
    data = [
        *("--model", f"{SAMPLES / 'nets.py'}:DigitNet", "--max-samples", "64"),
        *("--data", str(SAMPLES / "digits-train.npz")),
    ]
    assert run([*stale, *data, "--write-baseline", "known.json"]) == 0
    assert "BN202" in (folder / "known.json").read_text()
    assert said(capsys, *stale, "--baseline", "known.json") == (0, "")
    drift = [str(path) for path in sorted((SAMPLES / "snapshots").glob("*.pt"))]
    _, err = said(capsys, "drift", *drift, "--isolated", "--baseline", "known.json")
    assert "no longer found" not in err


def test_a_known_finding_of_a_model_that_nobody_declares_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.healthy(folder / "other.safetensors")
    (folder / "pyproject.toml").write_text(NET.format("other"))
    code, err = said(capsys, *KNOWN)
    assert code == 0
    assert "no longer found: BN102 bn2 of net" in err
    code, err = said(capsys, "inspect", "other.safetensors", "--baseline", "known.json")
    assert (code, err) == (0, "")


def test_a_baseline_that_is_not_written_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "known.json").read_bytes()
    (folder / "pyproject.toml").write_text(NET.format("net") + NET.format("bad"))
    (folder / "bad.safetensors").write_bytes(b"")
    for command in (["gate"], ["inspect", "net.safetensors", "bad.safetensors"]):
        code, err = said(capsys, *command, "--write-baseline", "known.json")
        assert code == 2
        assert "known.json: not written, for not everything could be checked" in err
    assert (folder / "known.json").read_bytes() == before


@pytest.mark.parametrize("wrapped", ["module.{}", "_orig_mod.{}", "ema_model.module.{}"])
def test_wrapping_the_model_makes_no_finding_new(
    folder: Path, wrapped: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nan = small.layer(running_var=float("nan"))
    layers = {wrapped.format(n): t for n, t in {"bn1": small.layer(), "bn2": nan}.items()}
    small.save(folder / "net.safetensors", layers)
    code, err = said(capsys, *KNOWN)
    assert code == 0
    assert "no longer found" not in err
    assert run(["gate", "--write-baseline", "wrapped.json"]) == 0
    (folder / "pyproject.toml").write_text(NET.format("net") + EXCEPT.format("bn2"))
    assert run(["gate"]) == 0
    (folder / "pyproject.toml").write_text(NET.format("net") + EXCEPT.format(wrapped.format("bn2")))
    small.broken(folder / "net.safetensors")
    assert run(["gate"]) == 0
    (folder / "pyproject.toml").write_text(NET.format("net"))
    assert said(capsys, "gate", "--baseline", "wrapped.json")[0] == 0


def test_a_model_and_its_average_in_one_file_are_not_taken_for_each_other(folder: Path) -> None:
    nan = small.layer(running_var=float("nan"))
    small.save(
        folder / "net.safetensors", {"model.bn2": nan, "ema_model.module.bn2": small.layer()}
    )
    assert run([*KNOWN]) == 1
    (folder / "pyproject.toml").write_text(NET.format("net") + EXCEPT.format("bn2"))
    assert run(["gate"]) == 1


def test_a_baseline_of_an_earlier_version_is_read(folder: Path) -> None:
    known = json.loads((folder / "known.json").read_text())
    for entry in known["findings"]:
        del entry["bare"]
    (folder / "known.json").write_text(json.dumps(known))
    assert run([*KNOWN]) == 0


@pytest.mark.parametrize("option", ["--baseline", "--against"])
def test_a_file_of_a_later_format_is_called_so(
    folder: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = option.removeprefix("--").replace("against", "gate")
    (folder / "later.json").write_text(json.dumps({"schema": f"bncheck.{kind}/2"}))
    code, err = said(capsys, "gate", option, "later.json")
    assert code == 2
    assert "of format 2, and this bncheck reads 1; use the bncheck that made it" in err


def test_inspect_does_not_take_what_is_known_of_one_model_for_another(folder: Path) -> None:
    small.broken(folder / "other.safetensors")
    (folder / "pyproject.toml").write_text(NET.format("net") + NET.format("other"))
    known = ["--baseline", "known.json"]
    assert run(["inspect", "net.safetensors", *known]) == 0
    assert run(["inspect", "other.safetensors", *known]) == 1
    (folder / "net.safetensors").rename(folder / "moved.safetensors")
    assert run(["inspect", "moved.safetensors", *known]) == 0
