"""`bncheck gate` and what it shares with the other commands: configuration and baselines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bncheck.cli import run
from tests import small

ROOT = Path(__file__).parents[2]
MODEL = '\n[tool.bncheck.models.{0}]\ncheckpoint = "{1}"\n'


class Project:
    """A folder with a pyproject.toml, and what commands do in it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def configure(self, text: str) -> None:
        (self.folder / "pyproject.toml").write_text(text)

    def run(self, *arguments: str) -> int:
        self._capsys.readouterr()
        code = run(list(arguments))
        self.out, self.err = self._capsys.readouterr()
        return code

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Project:
    monkeypatch.chdir(tmp_path)
    small.healthy(tmp_path / "good.safetensors")
    small.dead(tmp_path / "dead.safetensors")
    small.broken(tmp_path / "bad.safetensors")
    return Project(tmp_path, capsys)


def test_one_failing_model_does_not_hide_the_others(project: Project) -> None:
    names = ("nowhere", "bad", "good")
    project.configure("".join(MODEL.format(name, f"{name}.safetensors") for name in names))
    assert project.run("gate", "--json") == 2
    report = project.json
    assert [m["status"] for m in report["models"]] == ["unchecked", "broken", "healthy"]
    assert report["schema"] == "bncheck.gate/1"
    assert report["summary"] == {
        "models": 3, "errors": 1, "warnings": 0, "infos": 0, "unchecked": 1, "status": "unchecked",
    }  # fmt: skip
    assert project.err.count("\n") == 1
    assert "nowhere.safetensors" in project.err
    assert project.run("gate", "bad") == 1
    assert "good" not in project.out
    assert project.run("gate", "good") == 0
    assert project.run("gate", "goood") == 2
    assert "did you mean good?" in project.err


def test_patterns_take_every_file_and_none_is_an_error(project: Project) -> None:
    project.configure(MODEL.format("all", "*d.safetensors") + MODEL.format("none", "x/*.pt"))
    assert project.run("gate", "all", "--json") == 1
    (model,) = project.json["models"]
    paths = [report["checkpoint"]["path"] for report in model["reports"]]
    assert paths == ["bad.safetensors", "dead.safetensors", "good.safetensors"]
    assert project.run("gate", "none") == 2
    assert "pyproject.toml:6: checkpoint 'x/*.pt' matches no file" in project.err


def test_a_declared_model_without_layers_does_not_pass(project: Project) -> None:
    small.save(project.folder / "mlp.safetensors", {"fc": {"weight": np.zeros(3)}})
    project.configure(MODEL.format("mlp", "mlp.safetensors"))
    assert project.run("inspect", "mlp.safetensors") == 0
    assert project.run("gate") == 2
    assert "no normalisation layer" in project.err


def test_the_configuration_governs_single_commands_and_options_beat_it(project: Project) -> None:
    project.configure(
        '[tool.bncheck]\nfail-on = "warning"\n[tool.bncheck.severity]\nBN109 = "warning"'
    )
    assert project.run("inspect", "dead.safetensors", "--json") == 1
    assert project.json["findings"][0]["severity"] == "warning"
    assert project.json["summary"]["verdict"] == "suspect"
    assert project.run("inspect", "dead.safetensors", "--fail-on", "error") == 0
    assert project.run("inspect", "dead.safetensors", "--isolated") == 0
    (project.folder / "other.toml").write_text('[tool.bncheck]\nignore = ["BN1"]')
    assert project.run("inspect", "bad.safetensors", "--config", "other.toml") == 0
    assert project.run("inspect", "bad.safetensors", "--config", "other.toml", "--isolated") == 2
    assert project.run("inspect", "bad.safetensors", "--config", "nowhere.toml") == 2
    project.configure("[tool.bncheck]\nfail = 1")
    assert project.run("inspect", "good.safetensors") == 2
    assert "pyproject.toml:2: unknown key 'fail'" in project.err


def test_exceptions_apply_to_their_layers_and_unused_ones_are_said(project: Project) -> None:
    exception = '[[tool.bncheck.ignore]]\nrule = "BN102"\nlayers = "{}"\nreason = "known"\n'
    net = MODEL.format("net", "bad.safetensors")
    project.configure(exception.format("bn*") + exception.format("aux.*") + net)
    assert project.run("gate") == 0
    assert "'aux.*' matches no finding; remove it" in project.err
    assert "'bn*'" not in project.err
    assert "1 finding left out" in project.err
    project.configure(exception.format("aux.*") + net)
    assert project.run("gate") == 1


def test_exceptions_of_one_model_are_said_when_it_was_checked(project: Project) -> None:
    exception = (
        '[[tool.bncheck.ignore]]\nrule = "BN102"\nlayers = "bn*"\nreason = "x"\nmodels = "{}"\n'
    )
    bad, good = MODEL.format("bad", "bad.safetensors"), MODEL.format("good", "good.safetensors")
    project.configure(exception.format("bad") + bad + good)
    assert project.run("gate") == 0
    assert "matches no finding" not in project.err
    assert project.run("inspect", "bad.safetensors") == 1
    assert project.run("gate", "good") == 0
    assert "matches no finding" not in project.err  # bad was not looked at
    project.configure(exception.format("go*") + bad + good)
    assert project.run("gate", "good") == 0
    assert "the exception for BN102 in 'bn*' of 'go*' matches no finding; remove it" in project.err
    assert project.run("gate", "bad") == 1
    assert "matches no finding" not in project.err
    (project.folder / "good.safetensors").write_bytes(b"")
    assert project.run("gate", "good") == 2
    assert "matches no finding" not in project.err


@pytest.mark.parametrize("epoch", [8, 20, 30])
def test_the_checkpoint_under_test_is_the_last_of_its_series(project: Project, epoch: int) -> None:
    snapshots = sorted((ROOT / "sample_models" / "snapshots").glob("*.pt"))
    content = {**torch.load(snapshots[-1]), "epoch": epoch, "step": 44 * epoch}
    torch.save(content, project.folder / "a.pt")
    project.configure(MODEL.format("net", "a.pt") + f'drift = "{snapshots[0].parent / "*.pt"}"\n')
    assert project.run("gate", "--json") == 0
    _, report = project.json["models"][0]["reports"]
    names = [Path(snapshot["path"]).name for snapshot in report["snapshots"]]
    assert names == [*(path.name for path in snapshots), "a.pt"]
    assert report["reference"]["path"] == "a.pt"


@pytest.mark.parametrize("command", [["inspect", "net.safetensors"], ["gate"]], ids=lambda c: c[0])
def test_known_findings_do_not_fail_new_ones_do_and_gone_ones_are_said(
    project: Project, command: list[str]
) -> None:
    net = project.folder / "net.safetensors"
    project.configure(MODEL.format("net", net.name))
    small.broken(net, "bn2", "bn3")
    assert project.run(*command, "--write-baseline", "known.json") == 0
    assert "2 findings written" in project.err
    small.broken(net, "bn3", "bn2")
    assert project.run(*command, "--baseline", "known.json") == 0
    said = project.out
    assert said.startswith("known ")
    assert project.run(*command, "--baseline", "known.json", "--json") == 0
    report = project.json["models"][0]["reports"][0] if command == ["gate"] else project.json
    assert (report["summary"]["verdict"], report["summary"]["known"]) == ("healthy", 2)
    assert "2 known findings left out: known.json" in project.err
    small.broken(net, "bn3", "bn4")
    assert project.run(*command, "--baseline", "known.json", "--quiet") == 1
    assert "bn4" in project.out
    assert "bn3" not in project.out
    assert "no longer found: BN102 bn2" in project.err
    project.configure('[tool.bncheck]\nbaseline = "known.json"' + MODEL.format("net", net.name))
    assert project.run(*command) == 1
    for text in ("{}", "[", '{"schema": "bncheck.baseline/1", "findings": [3]}'):
        (project.folder / "known.json").write_text(text)
        assert project.run(*command) == 2
        assert "known.json: is not a bncheck baseline" in project.err


def test_a_known_warning_that_became_an_error_is_new(project: Project) -> None:
    severity = '[tool.bncheck.severity]\nBN109 = "{}"\n'
    project.configure(severity.format("warning"))
    command = ["inspect", "dead.safetensors"]
    assert project.run(*command, "--write-baseline", "known.json") == 0
    assert project.run(*command, "--baseline", "known.json", "--fail-on", "warning") == 0
    project.configure(severity.format("error"))
    assert project.run(*command, "--baseline", "known.json") == 1


def test_a_baseline_knows_which_model_it_is_about(project: Project) -> None:
    project.configure(MODEL.format("a", "bad.safetensors"))
    assert project.run("gate", "--write-baseline", "known.json") == 0
    project.configure(MODEL.format("a", "bad.safetensors") + MODEL.format("b", "bad.safetensors"))
    assert project.run("gate", "--baseline", "known.json", "--json") == 1
    assert [m["status"] for m in project.json["models"]] == ["healthy", "broken"]


def test_init_writes_what_can_be_read_and_overwrites_nothing(project: Project) -> None:
    assert project.run("gate", "--init") == 0
    assert project.run("gate") == 2
    assert "'models/*.pt' matches no file" in project.err
    (project.folder / "models").mkdir()
    (project.folder / "good.safetensors").rename(project.folder / "models" / "net.pt")
    assert project.run("gate") == 0
    before = (project.folder / "pyproject.toml").read_text()
    assert project.run("gate", "--init") == 2
    assert (project.folder / "pyproject.toml").read_text() == before
    project.configure('[project]\nname = "x"')
    assert project.run("gate", "--init") == 0
    assert (project.folder / "pyproject.toml").read_text().startswith('[project]\nname = "x"\n\n')
    assert project.run("gate") == 0


def test_the_schema_is_printed_for_editors(project: Project) -> None:
    assert project.run("gate", "--schema") == 0
    assert project.json["properties"]["models"]
    assert project.json["additionalProperties"] is False


def test_every_line_of_the_template_is_valid(project: Project) -> None:
    """Its two ways to ignore exclude each other; all the rest can be uncommented at once."""
    project.run("gate", "--init")
    template = (project.folder / "pyproject.toml").read_text()
    lines = [re.sub(r"^# (?=[\[a-z])", "", line) for line in template.splitlines()]
    options = [line for line in lines if re.match(r"\[|[a-z0-9-]+ = ", line)]
    project.configure("\n".join(line for line in options if not line.startswith("ignore = ")))
    assert len(options) > 15
    assert project.run("inspect", "good.safetensors", "--write-baseline", "new.json") == 0


@pytest.fixture
def stale(project: Project) -> Project:
    samples = ROOT / "sample_models"
    project.configure(
        MODEL.format("stale", samples / "stale.pt")
        + f'model = "{samples / "nets.py"}:DigitNet"\ndata = "{samples / "digits-train.npz"}"\n'
        + "fold = { fail-unfolded = true }\nsamples = 256\n"
    )
    return project


def test_code_is_said_before_it_runs_and_checks_with_data_and_fold_are_made(stale: Project) -> None:
    assert stale.run("gate", "--json") == 1
    assert stale.err.startswith("bncheck: note: stale runs the code of ")
    inspected, folded = stale.json["models"][0]["reports"]
    assert inspected["summary"]["cause"] == "BN202"
    assert folded["summary"] == {"total": 4, "folded": 4, "kept": 0}
    assert folded["parity"]["max_relative_error"] < folded["parity"]["tolerance"]
    assert folded["output"] is None
    assert sorted(p.name for p in stale.folder.iterdir()) == [
        "bad.safetensors", "dead.safetensors", "good.safetensors", "pyproject.toml",
    ]  # fmt: skip


def test_thresholds_of_a_model_decide(stale: Project) -> None:
    text = (stale.folder / "pyproject.toml").read_text()
    stale.configure(text + "inspect = { w2-warning = 1.5, w2-error = 2 }\n")
    assert stale.run("gate") == 0
    assert stale.run("gate", "--json") == 0
    assert stale.json["models"][0]["reports"][0]["summary"]["w2"] > 0.4


def test_against_an_earlier_report_no_layer_may_be_worse(stale: Project) -> None:
    previous = stale.folder / "previous.json"
    assert stale.run("gate", "--report", f"json:{previous}") == 1
    assert stale.run("gate", "--against", str(previous), "--json") == 1
    assert "BN50" not in stale.out
    data = json.loads(previous.read_text())
    inspected, folded = data["models"][0]["reports"]
    inspected["layers"][0]["w2"]["eval"] = 0.0
    inspected["layers"][1]["w2"]["eval"] -= 0.01
    folded["summary"]["folded"] = 5
    previous.write_text(json.dumps(data))
    assert stale.run("gate", "--against", str(previous), "--select", "BN5", "--json") == 1
    found = [f for r in stale.json["models"][0]["reports"] for f in r["findings"]]
    assert [(f["rule"], f["layer"]) for f in found] == [("BN501", "bn1"), ("BN502", None)]
    bad = {"name": "stale", "reports": [{"schema": "bncheck.inspect/1", "layers": [3]}]}
    for broken in ({}, {"models": 3}, {"models": [bad]}):
        previous.write_text(json.dumps({"schema": "bncheck.gate/1", **broken}))
        assert stale.run("gate", "--against", str(previous)) == 2
        assert "previous.json: is not a report" in stale.err


def test_relative_code_and_files_are_found_from_any_folder_below(
    stale: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stale.folder / "mynets.py").write_text((ROOT / "sample_models" / "nets.py").read_text())
    (stale.folder / "net.pt").write_bytes((ROOT / "sample_models" / "healthy.pt").read_bytes())
    (stale.folder / "deep").mkdir()
    monkeypatch.chdir(stale.folder / "deep")
    for model in ("mynets.py:DigitNet", "mynets:DigitNet"):
        stale.configure(
            MODEL.format("net", "net.pt") + f'model = "{model}"\ninput = "1,8,8"\nfold = {{}}\n'
        )
        assert stale.run("gate", "--json") == 0
        assert len(stale.json["models"][0]["reports"]) == 2


def test_every_check_is_made_of_a_real_model(project: Project) -> None:
    samples = ROOT / "sample_models"
    model = f'model = "{samples / "nets.py"}:DigitNet"\ndata = "{samples / "digits-test.npz"}"\n'
    project.configure(
        MODEL.format("net", samples / "healthy.pt")
        + model
        + f'export = "net.onnx"\ncompare = "net.onnx"\n'
        f'drift = "{samples / "snapshots" / "*.pt"}"\n'
        + MODEL.format("other", samples / "one-layer-reset.pt")
        + f'{model}compare = "net.onnx"\nsamples = 128\n'
    )
    assert project.run("gate", "--json") == 1
    net, other = project.json["models"]
    kinds = [report["schema"].split("/")[0] for report in net["reports"]]
    assert kinds == [f"bncheck.{word}" for word in ("inspect", "drift", "export", "compare")]
    assert net["status"] == "healthy"
    assert net["reports"][3]["equal"] is True
    assert (project.folder / "net.onnx").stat().st_size == net["reports"][2]["onnx"]["bytes"]
    assert other["status"] == "broken"
    assert other["reports"][1]["equal"] is False


def test_one_onnx_file_is_not_shared_by_several_checkpoints(project: Project) -> None:
    project.configure(MODEL.format("net", "*.safetensors") + 'export = "net.onnx"\n')
    assert project.run("gate") == 2
    assert "pyproject.toml:4: export is one file, and 3 checkpoints would share it" in project.err
