"""`gate --against`: what is compared under which name, and what is said where nothing is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bncheck.cli import run
from tests.networks import SAMPLES


class Gate:
    """A project with one measured and folded model, its report, and what is said of a change."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.report: dict[str, Any] = json.loads((folder / "first.json").read_text())

    def run(self, *arguments: str) -> int:
        self._capsys.readouterr()
        code = run(["gate", "--json", *arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    def against(self, change: Any) -> int:
        """The exit code against the same report with another past."""
        report = copy.deepcopy(self.report)
        change(report["models"][0])
        (self.folder / "then.json").write_text(json.dumps(report))
        return self.run("--against", "then.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    config = folder / "pyproject.toml"
    config.write_text(
        f'[tool.bncheck.models.net]\ncheckpoint = "{SAMPLES / "healthy.pt"}"\n'
        f'model = "{SAMPLES / "nets.py"}:DigitNet"\nsamples = 64\n'
        f'data = "{SAMPLES / "digits-train.npz"}"\nfold = {{}}\n'
    )
    assert run(["gate", "--config", str(config), "-o", str(folder / "first.json")]) == 0
    return folder


@pytest.fixture
def gate(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gate:
    monkeypatch.chdir(folder)
    return Gate(folder, capsys)


def renamed(how: str, *layers: str) -> Any:
    def change(model: Any) -> None:
        for layer in model["reports"][0]["layers"]:
            if not layers or layer["name"] in layers:
                layer["name"] = how.format(layer["name"])

    return change


def without_fold(change: Any) -> Any:
    def both(model: Any) -> None:
        model["reports"] = model["reports"][:1]
        change(model)

    return both


def test_the_same_layers_are_compared_without_a_word(gate: Gate) -> None:
    assert gate.against(lambda model: None) == 0
    assert "then.json" not in gate.err


@pytest.mark.parametrize("wrapped", ["module.{}", "_orig_mod.{}", "ema_model.module.{}"])
def test_a_wrapper_hides_no_regression(gate: Gate, wrapped: str) -> None:
    def worse(model: Any) -> None:
        model["reports"][0]["layers"][0]["w2"]["eval"] = -1.0
        renamed(wrapped)(model)

    assert gate.against(worse) == 1
    (found,) = (f for r in json.loads(gate.out)["models"][0]["reports"] for f in r["findings"])
    assert (found["rule"], found["layer"]) == ("BN501", "bn1")
    assert "then.json" not in gate.err


def test_layers_that_are_all_called_otherwise_cannot_be_compared(gate: Gate) -> None:
    assert gate.against(without_fold(renamed("stage.{}.norm"))) == 2
    assert "nothing that it holds of net can be compared" in gate.err
    assert "W2 of stage.bn1.norm" in gate.err
    model = json.loads(gate.out)["models"][0]
    assert (model["status"], len(model["reports"])) == ("unchecked", 2)
    assert model["errors"][0]["path"] == "then.json"


def test_some_that_are_not_compared_are_named(gate: Gate) -> None:
    assert gate.against(renamed("stage.{}", "bn1")) == 0
    assert "of net was not compared, for it is not there now: W2 of stage.bn1" in gate.err
    assert "bn2" not in gate.err


def test_a_model_that_is_new_and_one_that_is_gone_are_said(gate: Gate) -> None:
    assert gate.against(lambda model: model.update(name="older")) == 0
    assert "then.json: net is not in it" in gate.err
    assert "then.json: holds older, which is not declared now" in gate.err


def test_a_report_without_anything_to_compare_is_said(gate: Gate) -> None:
    def unmeasured(model: Any) -> None:
        for layer in model["reports"][0]["layers"]:
            layer["w2"]["eval"] = None

    assert gate.against(without_fold(unmeasured)) == 0
    assert "neither W2 nor a fold of net is in it" in gate.err


def test_fewer_folds_name_those_that_are_kept(gate: Gate) -> None:
    config = gate.folder / "pyproject.toml"
    before = config.read_text()
    config.write_text(before.replace("fold = {}", 'fold = { keep = ["bn2"] }'))
    try:
        assert gate.against(lambda model: None) == 1
    finally:
        config.write_text(before)
    found = [f for r in json.loads(gate.out)["models"][0]["reports"] for f in r["findings"]]
    (fewer,) = (f for f in found if f["rule"] == "BN502")
    assert "bn2 is kept: --keep asks for it" in fewer["fix"]
