"""The Action's steps, run as a runner's shell runs them; the hooks, by pre-commit itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import small

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
_EXPRESSION = re.compile(r"\$\{\{ (\w+)\.([\w.-]+) \}\}")
#: How GitHub starts `shell: bash`.
SHELL = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]


class Runner:
    """Just enough of GitHub's runner: inputs, environment, the three files."""

    def __init__(self, workspace: Path, temporary: Path) -> None:
        self.workspace, self.temporary = workspace, temporary
        self.steps = {step.get("id"): step for step in ACTION["runs"]["steps"]}
        self.outputs: dict[str, str] = {}
        self.summary = ""

    def run(self, step_id: str, **inputs: str) -> subprocess.CompletedProcess[str]:
        step = self.steps[step_id]
        known: dict[str, str] = {name: entry["default"] for name, entry in ACTION["inputs"].items()}
        given = known | {name.replace("_", "-"): value for name, value in inputs.items()}

        def value(match: re.Match[str]) -> str:
            source, name = match.groups()
            if source == "inputs":
                return str(given[name])
            return self.outputs[name.rpartition("outputs.")[2]] if source == "steps" else ""

        files = {name: self.temporary / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.write_text("")
        environment = {
            **os.environ,
            **{name: str(path) for name, path in files.items()},
            **{name: _EXPRESSION.sub(value, text) for name, text in step["env"].items()},
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(self.temporary),
        }
        assert "${{" not in step["run"]  # an input in a script is code
        script = self.temporary / "step.sh"
        script.write_text(step["run"])
        folder = _EXPRESSION.sub(value, step.get("working-directory", "."))
        done = subprocess.run(
            [*SHELL, str(script)],
            cwd=self.workspace / folder, env=environment, check=False, capture_output=True,
            text=True,
        )  # fmt: skip
        self.summary = files["GITHUB_STEP_SUMMARY"].read_text()
        lines = files["GITHUB_OUTPUT"].read_text().splitlines()
        self.outputs |= dict(line.split("=", 1) for line in lines)
        return done


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    workspace, temporary = tmp_path / "work space", tmp_path / "temp"
    (workspace / "models" / "deep").mkdir(parents=True)
    temporary.mkdir()
    small.healthy(workspace / "models" / "good.safetensors")
    made = Runner(workspace, temporary)
    made.outputs["bncheck"] = str(Path(sys.executable).parent / "bncheck")
    return made


def test_a_nan_in_one_running_var_fails_with_an_annotation_that_names_the_layer(
    runner: Runner,
) -> None:
    assert runner.run("run", checkpoints="models/**/*.safetensors").returncode == 0
    assert runner.outputs["exit-code"] == "0"
    small.broken(runner.workspace / "models" / "deep" / "new one.safetensors", "stem.bn")
    done = runner.run("run", checkpoints="models/**/*.safetensors")
    assert done.returncode == 1
    annotation = next(line for line in done.stdout.splitlines() if line.startswith("::error "))
    assert "file=models/deep/new one.safetensors," in annotation
    assert "::stem.bn: NaN or infinity" in annotation
    assert "`stem.bn`|error|BN102" in runner.summary
    assert runner.outputs["exit-code"] == "1"
    assert json.loads(Path(runner.outputs["json"]).read_text())["reports"]
    assert json.loads(Path(runner.outputs["sarif"]).read_text())["version"] == "2.1.0"


def test_without_checkpoints_it_is_the_gate(runner: Runner) -> None:
    (runner.workspace / "pyproject.toml").write_text(
        '[tool.bncheck.models.net]\ncheckpoint = "models/*.safetensors"\n'
    )
    assert runner.run("run", args="--fail-on warning").returncode == 0
    assert "healthy" in runner.summary


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "pyproject.toml: there is no [tool.bncheck]"),
        ({"checkpoints": "nowhere/*.pt"}, "nowhere/*.pt: does not exist"),
        ({"checkpoints": "$(touch owned); `touch owned`"}, "$(touch: does not exist"),
        ({"args": "--fail-on $(touch owned)"}, "could not be run"),
    ],
    ids=range(4),
)
def test_what_cannot_be_done_is_an_annotation_and_no_input_is_code(
    runner: Runner, inputs: dict[str, str], says: str
) -> None:
    done = runner.run("run", **inputs)
    assert done.returncode == 2
    assert done.stdout.startswith("::error ")
    assert says in done.stdout
    assert runner.outputs["exit-code"] == "2"
    assert not list(runner.workspace.rglob("owned"))


def test_the_install_step_installs_once(runner: Runner, tmp_path: Path) -> None:
    """A stand-in for Python records what is asked of pip: this test must not need a network."""
    calls = tmp_path / "calls"
    python = tmp_path / "python"
    python.write_text(
        "#!/usr/bin/env bash\n"
        'for venv; do :; done; mkdir -p "$venv/bin"\n'
        f'printf "#!/usr/bin/env bash\\necho pip \\$* >> {calls}\\n'
        'touch $venv/bin/bncheck; chmod +x $venv/bin/bncheck" > "$venv/bin/pip"\n'
        'chmod +x "$venv/bin/pip"\n'
    )
    python.chmod(0o755)
    runner.outputs |= {"python-path": str(python)}
    step = runner.steps["install"]
    step["env"] = {**step["env"], "BNCHECK_VENV": str(tmp_path / "venv"), "BNCHECK_SOURCE": "/src"}
    for _ in range(2):
        assert runner.run("install").returncode == 0
    assert calls.read_text() == "pip install --quiet /src\n"
    assert runner.outputs["bncheck"] == str(tmp_path / "venv" / "bin" / "bncheck")
    shutil.rmtree(tmp_path / "venv")
    assert runner.run("install", torch="true").returncode == 0
    assert "torch>=2.10" in calls.read_text()


def test_outputs_and_inputs_that_steps_use_exist() -> None:
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    ids = {step.get("id") for step in ACTION["runs"]["steps"]}
    assert set(re.findall(r"steps\.([\w-]+)\.", text)) <= ids


def test_the_hooks_run_through_pre_commit(tmp_path: Path) -> None:
    """In the installed environment: building a new one would need a network."""
    if not shutil.which("pre-commit"):
        pytest.skip("pre-commit is not installed")
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    scripts = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PRE_COMMIT_HOME": str(tmp_path / "cache"),
    }

    def shell(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    local = [{**hook, "language": "system"} for hook in hooks]
    (tmp_path / ".pre-commit-config.yaml").write_text(
        json.dumps({"repos": [{"repo": "local", "hooks": local}]})
    )
    (tmp_path / "pyproject.toml").write_text(
        '[tool.bncheck.models.net]\ncheckpoint = "*.safetensors"\n'
    )
    small.healthy(tmp_path / "a b.safetensors")
    shell("git", "init", "-q")
    shell("git", "add", ".")
    done = shell("pre-commit", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    small.broken(tmp_path / "bad.safetensors", "stem.bn")
    shell("git", "add", ".")
    done = shell("pre-commit", "run")
    assert done.returncode == 1
    assert done.stdout.count("stem.bn") == 2
