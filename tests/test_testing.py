"""assert_sound, and the code and configuration on the page about CI."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import bncheck
from bncheck.policy.config.find import load
from bncheck.testing import assert_sound
from tests import small

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "ci.md").read_text()


def net() -> nn.Sequential:
    """A small net with statistics of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    for _ in range(200):
        model(torch.randn(64, 4))
    return model.eval()


def poison(model: nn.Sequential) -> None:
    """A NaN in one running variance."""
    variance = model[1].running_var
    assert isinstance(variance, torch.Tensor)
    variance[2] = float("nan")


def test_a_sound_model_passes_and_its_report_comes_back() -> None:
    report = assert_sound(net(), [torch.randn(64, 4) for _ in range(8)])
    assert report.summary.w2 is not None
    assert report.summary.w2 < 0.2


def test_the_failure_message_is_the_report() -> None:
    model = net()
    poison(model)
    with pytest.raises(AssertionError) as caught:
        assert_sound(model)
    first, report = str(caught.value).split("\n", 1)
    assert first == "BatchNorm statistics are broken: BN102"
    assert "BROKEN" in report
    assert "BN102" in str(caught.value)
    assert "\n         1: NaN or infinity in the running variance of 1 channel" in str(caught.value)


def test_data_that_disagree_fail() -> None:
    with pytest.raises(AssertionError, match=r"W2"):
        assert_sound(net(), [torch.randn(64, 4) * 3 + 2 for _ in range(8)])


def test_fail_on_and_options_are_those_of_the_command(tmp_path: Path) -> None:
    bad = small.broken(tmp_path / "bad.safetensors")
    assert_sound(bad, fail_on="never")
    assert_sound(bad, ignore=["BN102"])
    with pytest.raises(AssertionError):
        assert_sound(bad, fail_on="warning")
    with pytest.raises(bncheck.BncheckError, match="no normalisation layer"):
        assert_sound(nn.Linear(2, 2))


def blocks(language: str) -> list[str]:
    """The page's code in that language."""
    return re.findall(rf"```{language}\n(.*?)```\n", PAGE, re.DOTALL)


def test_the_page_s_configuration_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("toml")
    for variant in (text, re.sub(r"(?m)^ignore = .*$", "", text).replace("\n# ", "\n")):
        (tmp_path / "pyproject.toml").write_text(
            variant.replace("Instead of the list above, to ignore a rule for some layers only:", "")
        )
        found = load(None, isolated=False)
        assert found is not None
        assert found.settings.models["net"].fold is not None


def test_readme_and_page_have_the_same_workflow_of_known_inputs() -> None:
    workflow, *_ = blocks("yaml")
    assert workflow in (ROOT / "README.md").read_text()
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = [
        s for s in yaml.safe_load(workflow)["jobs"]["bncheck"]["steps"] if "bncheck" in s["uses"]
    ]
    assert step["with"].keys() <= action["inputs"].keys()
    assert len(workflow.splitlines()) <= 10


def test_the_page_s_plain_loop_runs() -> None:
    (code,) = [block for block in blocks("python") if "def check_statistics" in block]
    names: dict[str, Any] = {}
    exec(compile(code, "docs/ci.md", "exec"), names)
    model = net()
    assert names["check_statistics"](model)
    poison(model)
    assert not names["check_statistics"](model)


def test_an_unknown_severity_names_the_choices() -> None:
    with pytest.raises(bncheck.BncheckError, match="error, warning, never"):
        assert_sound(net(), fail_on="wrong")
