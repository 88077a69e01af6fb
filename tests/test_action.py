"""The Action's steps, run as a runner's shell runs them; the hooks, by pre-commit itself."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import small
from tests.warm import Warm

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
_EXPRESSION = re.compile(r"\$\{\{ (\w+)\.([\w.-]+) \}\}")
#: The console script: what is about how a command starts, and what a folder could do to it.
SCRIPT = str(Path(sys.executable).parent / "bncheck")
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
def runner(tmp_path: Path, warm: Warm) -> Runner:
    workspace, temporary = tmp_path / "work space", tmp_path / "temp"
    (workspace / "models" / "deep").mkdir(parents=True)
    temporary.mkdir()
    small.healthy(workspace / "models" / "good.safetensors")
    made = Runner(workspace, temporary)
    made.outputs["bncheck"] = str(warm.bncheck)
    return made


def test_a_nan_in_one_running_var_fails_with_an_annotation_that_names_the_layer(
    runner: Runner,
) -> None:
    runner.outputs["bncheck"] = SCRIPT
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
    assert "no fault found" in runner.summary


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "pyproject.toml: found no [tool.bncheck]"),
        ({"args": "--fail-on 'never"}, "args: is not a list of options (No closing quotation)"),
        ({"args": "--baseline", "checkpoints": "models/*"}, "could not be run"),
        ({"checkpoints": "nowhere/*.pt"}, "nowhere/*.pt: matches no file"),
        ({"checkpoints": "$(touch owned); `touch owned`"}, "$(touch: does not exist"),
        ({"args": "--fail-on $(touch owned)"}, "could not be run"),
    ],
    ids=range(6),
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


def test_installing_runs_no_module_of_the_folder(runner: Runner, tmp_path: Path) -> None:
    """`python -m venv` looks for venv.py in the folder first, and that is the pull request's."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/usr/bin/env bash\nexec {shlex.quote(sys.executable)} "$@" --without-pip\n'
    )
    python.chmod(0o755)
    for module in ("venv", "typing", "pip"):
        (runner.workspace / f"{module}.py").write_text('open("owned", "w")\n')
    runner.outputs |= {"python-path": str(python)}
    step = runner.steps["install"]
    step["env"] = {**step["env"], "BNCHECK_VENV": str(tmp_path / "venv"), "BNCHECK_SOURCE": "/src"}
    runner.run("install")
    assert (tmp_path / "venv" / "bin").is_dir()
    assert not list(runner.workspace.rglob("owned"))


def test_outputs_and_inputs_that_steps_use_exist() -> None:
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    ids = {step.get("id") for step in ACTION["runs"]["steps"]}
    assert set(re.findall(r"steps\.([\w-]+)\.", text)) <= ids


def test_an_old_copy_is_not_taken_for_the_new_source(tmp_path: Path, runner: Runner) -> None:
    source = tmp_path / "source"
    (source / "bncheck").mkdir(parents=True)
    (source / "pyproject.toml").touch()
    runner.outputs["python-path"] = sys.executable
    runner.steps["source"]["env"] |= {"BNCHECK_SOURCE": str(source)}
    digests = []
    for text in ("one", "two"):
        (source / "bncheck" / "a.py").write_text(text)
        assert runner.run("source").returncode == 0
        digests.append(runner.outputs["digest"])
    assert len(set(digests)) == 2
    (cache,) = (s for s in ACTION["runs"]["steps"] if s.get("uses", "").startswith("actions/cache"))
    assert "steps.source.outputs.digest" in cache["with"]["key"]
    assert "hashFiles" not in cache["with"]["key"]  # nothing outside the workspace is hashed


def _hooks() -> dict[str, dict[str, Any]]:
    return {h["id"]: h for h in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}


def _hook_command(hook: dict[str, Any], names: list[str], script: str = SCRIPT) -> list[str]:
    """As pre-commit makes it: lang_base.hook_cmd, then the names."""
    program, *words = shlex.split(hook["entry"])
    assert program == "bncheck"
    return [script, *words, *hook.get("args", []), *names]


#: Names that a pull request may give to files, all of which match *.pt.
EVIL = (
    "--model=evil.py:x.pt", "--data=evil.py:x.pt", "--metric=evil.py:x.pt", "--trust.pt",
    "--write-baseline=x.pt", "--config=x.pt", "--fail-on=never.pt", "--report=json:owned.pt",
    "--help.pt", "-h.pt", "-o.pt", "-oowned.pt", "-q.pt", "--.pt", "-.pt", "--isolated.pt",
    "@file.pt", "@evil.py.pt", "evil.py:x.pt", "json:owned.pt", "a b.pt", " lead.pt",
    "new\nline.pt", "new\n::error::x.pt", "r\r::stop-commands::x.pt", "quote'.pt", 'double".pt',
    "$(touch owned).pt", "`touch owned`.pt", "; touch owned;.pt", "| tee owned.pt",
    "&& touch owned.pt", "> owned.pt", "*.pt", "[x].pt", "?.pt", "{a,b}.pt", "$BNCHECK.pt",
    "~.pt", "\\.pt", "#x.pt", "%0A::error::.pt", "##[error]x.pt", "exit-code=0\njson=x.pt",
    "--install-completion.pt", "--show-completion=bash.pt", "-\n--model=evil.py:x.pt",
    os.fsdecode(b"\xff\xfe.pt"), "x" * 252 + ".pt", "größe 权重.pt", "\u202egnp.pt",
)  # fmt: skip


def _evil_folder(folder: Path) -> Path:
    """All of these names, each of a file with a NaN, beside the code that they hope to run."""
    folder.mkdir(exist_ok=True)
    small.broken(folder / "x.pt", "bn")
    for name in EVIL:
        shutil.copy(folder / "x.pt", folder / name)
    (folder / "evil.py").write_text(f"open({str(folder / 'owned')!r}, 'w')\nx = pt = print\n")
    (folder / "evil.py").with_name("sitecustomize.py").write_text((folder / "evil.py").read_text())
    for module in ("json", "bncheck", "typing", "subprocess"):
        shutil.copy(folder / "evil.py", folder / f"{module}.py")
    return folder


def _untouched(folder: Path, before: set[str]) -> None:
    assert {path.name for path in folder.iterdir()} == before
    assert (folder / "x.pt").read_bytes() == (folder / EVIL[0]).read_bytes()


@pytest.mark.parametrize("checkpoints", ["*.pt", "./*.pt", "**/*.pt", "listed"])
def test_no_name_is_an_option_in_the_action(runner: Runner, checkpoints: str) -> None:
    folder = _evil_folder(runner.workspace)
    before = set(os.listdir(folder))
    if checkpoints == "listed":  # as a step that lists changed files gives them
        names = {"x.pt", *(name for name in EVIL if "\n" not in name and "\r" not in name)}
        checkpoints = "\n".join(sorted(names))
    else:
        names = {"x.pt", *EVIL}
    if checkpoints == "*.pt":
        runner.outputs["bncheck"] = SCRIPT
    done = runner.run("run", checkpoints=checkpoints)
    assert done.returncode == 1, done.stderr
    report = json.loads(Path(runner.outputs["json"]).read_text())
    assert report["errors"] == []
    assert names <= {os.path.normpath(r["checkpoint"]["path"]) for r in report["reports"]}
    commands = [line for line in done.stdout.splitlines() if line.lstrip().startswith("::")]
    assert all(line.startswith("::error file=") for line in commands[:-1])
    assert "##[" not in done.stdout + runner.summary
    assert "::error::" not in done.stdout.replace("::error file", "")
    assert "::stop-commands::" not in done.stdout
    assert runner.outputs["exit-code"] == "1"
    assert len(runner.outputs) == 4  # three of the step, and where bncheck is
    _untouched(folder, before)


def test_a_dangling_option_of_the_action_swallows_no_mark(runner: Runner) -> None:
    folder = _evil_folder(runner.workspace)
    before = set(os.listdir(folder))
    for args in ("--baseline", "--model", "--", "-- --model", "--report"):
        assert runner.run("run", checkpoints="*.pt", args=args).returncode == 2
        _untouched(folder, before)


def test_names_with_blanks_and_marks_are_found(runner: Runner) -> None:
    for name in ("a b.pt", "[x].pt", "it's.pt"):
        small.healthy(runner.workspace / name)
    assert runner.run("run", checkpoints="a b.pt\r\n  [x].pt it's.pt\n\n").returncode == 0
    report = json.loads(Path(runner.outputs["json"]).read_text())
    names = [r["checkpoint"]["path"] for r in report["reports"]]
    assert names == ["a b.pt", "[x].pt", "it's.pt"]


def test_a_file_called_like_the_pattern_hides_nothing(runner: Runner) -> None:
    models = runner.workspace / "models"
    small.broken(models / "bad.safetensors", "bn")
    small.healthy(models / "*.safetensors")
    (models / "*.safetensors models").mkdir()
    small.healthy(models / "*.safetensors models" / "*.safetensors")
    for checkpoints in ("models/*.safetensors", "models/*.safetensors models/*.safetensors"):
        assert runner.run("run", checkpoints=checkpoints).returncode == 1


def test_options_of_the_action_may_be_quoted(runner: Runner) -> None:
    small.broken(runner.workspace / "models" / "bad.safetensors", "bn")
    args = "--ignore 'BN102' --fail-on \"error\""
    assert runner.run("run", checkpoints="models/bad.safetensors", args=args).returncode == 0


def test_a_configuration_of_a_stranger_runs_nothing_in_inspect(runner: Runner) -> None:
    folder = _evil_folder(runner.workspace)
    (folder / "pyproject.toml").write_text(
        '[tool.bncheck.models.net]\ncheckpoint = "x.pt"\nmodel = "evil.py:x"\ndata = "evil.py:x"\n'
    )
    before = set(os.listdir(folder))
    assert runner.run("run", checkpoints="*.pt").returncode == 1
    assert runner.run("run", checkpoints="*.pt", args="--isolated").returncode == 1
    _untouched(folder, before)
    runner.outputs["bncheck"] = SCRIPT
    done = runner.run("run")  # the gate says it first, and then does it
    assert "net runs the code of evil.py:x and evil.py:x" in done.stderr
    assert (folder / "owned").exists()


@pytest.mark.parametrize("pattern", ["*.pt", "./**/*.pt", "?*.pt"])
def test_no_name_is_more_than_a_file_to_the_gate(pattern: str, runner: Runner) -> None:
    folder = _evil_folder(runner.workspace)
    (folder / "pyproject.toml").write_text(f'[tool.bncheck.models.net]\ncheckpoint = "{pattern}"\n')
    before = set(os.listdir(folder))
    if pattern == "*.pt":
        runner.outputs["bncheck"] = SCRIPT
    done = runner.run("run")
    assert done.returncode == 1
    assert "runs the code" not in done.stderr
    report = json.loads(Path(runner.outputs["json"]).read_text())
    (model,) = report["models"]
    checked = {os.path.normpath(r["checkpoint"]["path"]) for r in model["reports"]}
    assert checked == {"x.pt", *EVIL}
    assert not [line for line in done.stdout.splitlines() if line.startswith("::stop")]
    _untouched(folder, before)


@pytest.mark.parametrize("hook", _hooks())
def test_no_name_is_an_option_of_a_hook(hook: str, tmp_path: Path) -> None:
    folder = _evil_folder(tmp_path / "repository")
    names = sorted(path.name for path in folder.glob("*.pt"))
    before = set(os.listdir(folder))
    command = _hook_command(_hooks()[hook], names)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if hook == "bncheck":
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.count("BN102") == len(names)
    else:  # it is given no names; were it, they would be those of models
        assert done.returncode == 2
    _untouched(folder, before)


def test_a_user_s_own_arguments_of_a_hook_open_no_door(tmp_path: Path, warm: Warm) -> None:
    """pre-commit puts `args` before the names, and a configuration may replace the entry."""
    folder = _evil_folder(tmp_path / "repository")
    names, before = sorted(path.name for path in folder.glob("*.pt")), set(os.listdir(folder))
    for changed in (
        {"args": ["--fail-on", "never"]},
        {"args": ["--baseline"]},
        {"entry": "bncheck inspect"},  # without its --
        {"entry": "bncheck inspect --quiet", "args": ["--fail-on", "never"]},
    ):
        command = _hook_command(_hooks()["bncheck"] | changed, names, str(warm.bncheck))
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stdout
        _untouched(folder, before)
    entry = {"entry": "bncheck inspect --quiet --fail-on never --"}
    command = _hook_command(entry, names, str(warm.bncheck))
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    _untouched(folder, before)


@pytest.mark.parametrize("command", ["inspect", "drift", "compare", "fold", "export"])
@pytest.mark.parametrize("name", [name for name in EVIL if name.startswith("-")])
def test_an_option_that_is_a_file_is_refused(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """`bncheck inspect *.pt`, typed in a stranger's folder."""
    from bncheck.cli import run

    (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert run([command, "x.pt", name]) == 2
    assert "is both an option and a file in this folder; put ./ before" in capsys.readouterr().err


def test_the_mark_cannot_give_options_to_a_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from bncheck.cli import run

    for words in (["--"], ["--", "inspect", "--model=evil.py:x"], ["-v", "--", "inspect", "x"]):
        assert run(words) == 2
        assert "-- stands before the command" in capsys.readouterr().err


#: Lines of the documentation in which a shell expands a pattern or a variable to names.
_EXPANDS = re.compile(r"[*?$]|\[")


def _shell_lines() -> list[str]:
    texts = [path.read_text() for path in (*ROOT.glob("*.md"), *ROOT.glob("*/**/*.md"))]
    blocks = [
        b for t in texts for b in re.findall(r"```(?:console|sh|bash|yaml|)\n(.*?)```", t, re.S)
    ]
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [word for text in texts for word in re.findall(r"`([^`\n]+)`", text)]
    lines += (ROOT / "Makefile").read_text().splitlines()
    command = re.compile(r"bncheck (?:inspect|drift|fold|export|compare|recalibrate|gate)\b.*")
    return [found[0] for line in lines if (found := command.search(line))]


def test_every_shell_line_of_the_documentation_marks_its_names() -> None:
    lines = _shell_lines()
    assert len(lines) > 30
    expanding = 0
    for line in lines:
        words = shlex.split(re.split(r" (?:\|\||&&|[|;#]) ?|(?<=\S); ", line)[0], posix=False)
        for place, word in enumerate(words):
            if word[0] == "'" or not _EXPANDS.search(word) or word.startswith("[NAME"):
                continue
            assert "--" in words[:place], line
            assert "$" not in word or word[0] == '"', line
            expanding += 1
    assert expanding >= 3


def test_the_hooks_run_through_pre_commit(tmp_path: Path, warm: Warm) -> None:
    """In the installed environment: building a new one would need a network."""
    path = os.pathsep.join([str(warm.bncheck.parent), str(Path(SCRIPT).parent), os.environ["PATH"]])
    if not shutil.which("pre-commit", path=path):
        pytest.skip("pre-commit is not installed")
    environment = {
        **os.environ,
        "PATH": path,
        "PRE_COMMIT_HOME": str(tmp_path / "cache"),
    }

    def shell(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    local = [{**hook, "language": "system"} for hook in _hooks().values()]
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
    _evil_folder(tmp_path)
    names = [name for name in EVIL if name.encode(errors="ignore").decode() == name]
    for name in {*EVIL} - {*names}:  # pre-commit itself ends on names that are not UTF-8
        (tmp_path / name).unlink()
    shell("git", "add", ".")
    before = set(os.listdir(tmp_path))
    done = shell("pre-commit", "run", "bncheck")
    assert done.returncode == 1
    assert done.stdout.count("BN102") >= len(names)
    _untouched(tmp_path, before)
