"""`bncheck inspect` as a user and a script see it: streams, exit codes, files, one-line errors."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

import bncheck
from bncheck._version import __version__
from bncheck.cli import run
from bncheck.cli.app import COMMANDS
from bncheck.core.findings import Verdict
from tests.networks import SAMPLES
from tests.warm import Warm

HEALTHY = str(SAMPLES / "healthy.pt")
RESET = str(SAMPLES / "one-layer-reset.pt")
UNDER_WARMED = str(SAMPLES / "under-warmed-module.pt")


class Result:
    """What one command line did."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        capsys.readouterr()
        self.code = run(list(arguments))
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([HEALTHY], 0),
        ([RESET], 1),
        ([RESET, "--fail-on", "never"], 0),
        ([RESET, "--ignore", "BN101"], 0),
        ([RESET, "--select", "BN102,BN103"], 0),
        ([RESET, "--select", "never-updated-statistics"], 1),
        ([HEALTHY, RESET], 1),
        ([HEALTHY, "nowhere.pt"], 2),
        ([UNDER_WARMED, "--ignore", "BN105"], 0),
        ([HEALTHY, "--momentum", "0.5"], 0),
        ([HEALTHY, "--momentum", "0.5", "--fail-on", "warning"], 1),
        ([HEALTHY, "--momentum", "0.9", "--train-batch-size", "4"], 1),
        (["--version"], 0),
        (["--help"], 0),
        ([], 2),
    ],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str], code: int
) -> None:
    command = [] if arguments[:1] in (["--version"], ["--help"]) else ["inspect"]
    assert Result(capsys, *command, *arguments).code == code


ERRORS = [
    (["inspect"], "CKPT", "see `bncheck inspect --help`"),
    (["inspect", "--no-such", HEALTHY], "--no-such", "see `bncheck inspect --help`"),
    (["inspect", HEALTHY, "--momentum", "2"], "--momentum", "see `bncheck inspect --help`"),
    (["inspect", HEALTHY, "--fail-on", "sometimes"], "--fail-on", "see `bncheck inspect --help`"),
    (["inpsect"], "inpsect", "inspect"),
    (["inspect", "nowhere.pt"], "nowhere.pt", "check the path"),
    (["inspect", HEALTHY, "--key", "statedict"], "statedict", "did you mean state_dict?"),
    (["inspect", HEALTHY, "--select", "BN991"], "BN991", "rule --all"),
    (["inspect", HEALTHY, "--report", "yaml:x"], "yaml", "text, json"),
    (["inspect", HEALTHY, "--report", "json"], "json", "write e.g."),
    (["inspect", HEALTHY, "-o", "/no/such/folder/x.json"], "/no/such/folder", "create it first"),
    (["inspect", HEALTHY, "-o", HEALTHY], HEALTHY, "or give the format"),
    (["inspect", HEALTHY, "--format", "text", "-o", HEALTHY], HEALTHY, "name another file"),
    (["inspect", HEALTHY, "-q", "-v"], "--quiet", "give one of them"),
    (["rule"], "CODE", "bncheck rule BN101"),
    (["rule", "dead-chanels"], "dead-chanels", "did you mean dead-channels?"),
    (["rule", "BN101", "--all"], "--all", "bncheck rule BN101"),
]


@pytest.mark.parametrize(("arguments", "names", "says"), ERRORS, ids=lambda v: str(v)[-40:])
def test_an_error_is_one_line_that_names_its_cause_and_the_next_step(
    capsys: pytest.CaptureFixture[str], arguments: list[str], names: str, says: str
) -> None:
    before = Path(HEALTHY).read_bytes()
    result = Result(capsys, *arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("bncheck: error: ")
    assert result.err.count("\n") == 1
    assert names in result.err
    assert says in result.err
    assert Path(HEALTHY).read_bytes() == before


def test_json_of_one_report_has_every_promised_key(capsys: pytest.CaptureFixture[str]) -> None:
    report = Result(capsys, "inspect", RESET, "--json").json
    assert list(report) == [
        "schema", "bncheck", "checkpoint", "assumptions", "layers", "findings", "summary",
        "results", "others",
    ]  # fmt: skip
    assert report["schema"] == "bncheck.inspect/1"
    assert report["bncheck"] == __version__
    assert report["checkpoint"] == {
        "path": RESET, "container": "torch-zip", "key": "state_dict", "prefix": None, "tensors": 26,
    }  # fmt: skip
    assert report["assumptions"]["eps"] == {"value": 1e-5, "source": "assumed"}
    layer = next(layer for layer in report["layers"] if layer["name"] == "bn2")
    assert layer.keys() == {
        "name", "kind", "channels", "eps", "momentum", "num_batches_tracked", "running_mean",
        "running_var", "weight", "bias", "dead_channels", "w2", "z_share", "worst_channels",
        "measured", "reason",
    }  # fmt: skip
    assert layer["running_mean"] == {"min": 0.0, "max": 0.0}
    assert layer["running_var"] == {"min": 1.0, "max": 1.0}
    assert layer["num_batches_tracked"] == 0
    assert layer["eps"] is None
    (finding,) = report["findings"]
    assert finding.keys() == {
        "rule", "name", "severity", "layer", "message", "fix", "evidence", "fingerprint",
    }  # fmt: skip
    assert (finding["rule"], finding["severity"], finding["layer"]) == ("BN101", "error", "bn2")
    assert report["summary"] == {
        "layers": 4, "errors": 1, "warnings": 0, "infos": 0, "verdict": "broken", "cause": "BN101",
        "w2": None, "samples": None, "metric": None, "judged": "file", "known": 0,
    }  # fmt: skip


def test_json_writes_nan_as_a_string(capsys: pytest.CaptureFixture[str]) -> None:
    report = Result(capsys, "inspect", str(SAMPLES / "nan.pt"), "--json").json
    assert report["layers"][0]["running_mean"] == {"min": "nan", "max": "nan"}


def test_several_inputs_are_reported_beside_what_could_not_be_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    empty = tmp_path / "empty.pt"
    empty.touch()
    result = Result(capsys, "inspect", HEALTHY, str(empty), "nowhere.pt", "--json")
    assert result.code == 2
    assert [r["summary"]["verdict"] for r in result.json["reports"]] == ["healthy"]
    assert [e["path"] for e in result.json["errors"]] == [str(empty), "nowhere.pt"]
    assert result.json["errors"][0]["message"] == "is empty (0 bytes); download it again"
    assert result.err.count("\n") == 2


def test_a_file_without_normalisation_layers_is_healthy_and_noted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "plain.safetensors"
    safetensors.numpy.save_file({"fc.weight": np.ones((2, 2), np.float32)}, path)
    result = Result(capsys, "inspect", str(path), "--json")
    assert result.code == 0
    assert result.json["summary"]["verdict"] == "healthy"
    assert result.json["layers"] == []
    assert "no normalisation layer" in result.err


def test_a_choice_between_parts_of_a_file_is_said_with_the_others_verdicts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(SAMPLES / "ema-initial-buffers.pt")
    result = Result(capsys, "inspect", path, "--json")
    assert result.code == 0
    assert result.json["checkpoint"]["key"] == "model"
    assert result.err.endswith("using model; --key selects another: ema (broken)\n")
    chosen = Result(capsys, "inspect", path, "--json", "--key", "ema")
    assert chosen.code == 1
    assert chosen.json["summary"]["cause"] == "BN101"


def test_reports_are_written_beside_what_stdout_shows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, two, three = (tmp_path / name for name in ("1.json", "2.txt", "3.json"))
    plain = Result(capsys, "inspect", RESET)
    result = Result(
        capsys, "inspect", RESET, "--json", "-o", str(one),
        "--report", f"text:{two}", "--report", f"json:{three}",
    )  # fmt: skip
    assert result.out == plain.out
    assert json.loads(one.read_text()) == json.loads(three.read_text())
    assert "BN101" in two.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.json", "2.txt", "3.json"]


def test_nothing_is_written_on_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    assert Result(capsys, "inspect", "nowhere.pt", "-o", str(target)).code == 2
    assert target.read_text() == "old"


def test_quiet_is_a_line_for_each_error_and_warning(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Result(capsys, "inspect", UNDER_WARMED, HEALTHY, "--quiet").out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"{UNDER_WARMED}: ") for line in lines)
    assert [" error BN105 bn4" in line for line in lines] == [True, False, False, False]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real process, without colour settings of the test run's own."""
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return subprocess.run(
        f"{command}",
        shell=True,
        executable="/bin/bash",
        env={**clean, **environment, "PY": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )


def test_colour_is_for_terminals_and_those_who_ask(warm: Warm) -> None:
    inspect = f"{warm.bncheck} inspect {RESET}"
    assert "\x1b" not in shell(inspect).stdout
    assert "\x1b[" in shell(inspect, FORCE_COLOR="1").stdout
    assert "\x1b" not in shell(inspect, FORCE_COLOR="1", NO_COLOR="1").stdout
    assert "\x1b" not in shell(f"{inspect} --no-color", FORCE_COLOR="1").stdout


def test_a_reader_that_leaves_early_is_not_an_error() -> None:
    done = shell(f'set -o pipefail; "$PY" -m bncheck inspect -v {HEALTHY} {HEALTHY} | head -1')
    assert done.stderr == ""
    assert done.stdout.startswith("no fault found")


def test_a_plain_c_locale_and_a_closed_stdin_change_nothing() -> None:
    done = shell(f'"$PY" -m bncheck inspect -v {RESET} <&-', LC_ALL="C", PYTHONUTF8="0", HOME="")
    assert done.returncode == 1
    assert "BN101" in done.stdout
    assert done.stderr == ""


def test_a_crash_is_reported_as_a_bug_and_not_as_a_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("bncheck.inspecting.command.inspect", crash)
    result = Result(capsys, "inspect", HEALTHY)
    assert result.code == 2
    assert "this is a bug in bncheck (ZeroDivisionError: division by zero)" in result.err
    assert "Traceback" not in result.err
    monkeypatch.setenv("BNCHECK_DEBUG", "1")
    assert "Traceback" in Result(capsys, "inspect", HEALTHY).err


def test_an_interrupt_is_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bncheck.inspecting.command.inspect", interrupt)
    assert Result(capsys, "inspect", HEALTHY).code == 130


def test_inspecting_a_file_imports_no_torch_and_help_neither_numpy_nor_rich(tmp_path: Path) -> None:
    code = (
        "import sys; from bncheck.cli import run; run(sys.argv[1:]);"
        "print(','.join(m for m in ('torch','numpy','rich','onnx','pydantic') if m in sys.modules))"
    )
    files = [str(path) for path in sorted(SAMPLES.glob("healthy*")) if path.suffix != ".onnx"]
    argv = [sys.executable, "-c", code]
    done = subprocess.run([*argv, "inspect", *files], capture_output=True, text=True, check=True)
    assert not {"torch", "onnx"} & set(done.stdout.splitlines()[-1].split(","))
    done = subprocess.run([*argv, "inspect", "--help"], capture_output=True, text=True, check=True)
    # pydantic is typer's affair: 0.29 imports it at every start, 0.28 does not.
    assert done.stdout.splitlines()[-1] in ("", "pydantic")


def test_a_name_from_a_file_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = "\x1b]0;owned\x07\n::error::x[link=http://x]\u202e\u2028bn"
    path = tmp_path / "names.pkl"
    tensors = {f"{name}.running_mean": np.zeros(3), f"{name}.running_var": np.ones(3)}
    tensors |= {"a.running_mean": np.ones(3), "a.running_var": np.ones(3)}
    path.write_bytes(pickle.dumps(tensors))
    for options in ([], ["--verbose"], ["--quiet"], ["--json"]):
        out = Result(capsys, "inspect", str(path), *options).out
        assert all(line.isprintable() for line in out.splitlines())
        assert not any(line.startswith("::") for line in out.splitlines())
        assert not set(out) & {"\x1b", "\x07", "\u202e", "\u2028"}
        assert "owned" in out


def test_the_console_script_is_installed() -> None:
    assert shutil.which("bncheck", path=str(Path(sys.executable).parent))


def test_a_module_without_norms_is_healthy_like_a_file_without() -> None:
    report = bncheck.inspect(torch.nn.Linear(2, 2))
    assert not report.layers
    assert report.summary.verdict is Verdict.HEALTHY


def test_every_command_is_told_in_one_whole_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["--help"]) == 0
    told = capsys.readouterr().out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in told] == list(COMMANDS)
    assert not [line for line in told if line.endswith("...")]


@pytest.mark.parametrize(
    "call",
    [
        lambda: bncheck.inspect({"bn.running_mean": 0}),  # type: ignore[arg-type]
        lambda: bncheck.inspect({"bn.running_mean": 0}, "x.npz"),  # type: ignore[arg-type]
        lambda: bncheck.recalibrate({"bn.running_mean": 0}, "x.npz"),  # type: ignore[arg-type]
        lambda: bncheck.drift(HEALTHY),
    ],
)
def test_a_wrong_argument_in_python_is_one_sentence(call: Callable[[], object]) -> None:
    with pytest.raises(bncheck.BncheckError, match=r"is not a torch.nn.Module|is not a series"):
        call()


@pytest.mark.parametrize("option", ["--eps", "--momentum"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_that_is_none_is_not_blamed_on_the_file(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Result(capsys, "inspect", str(SAMPLES / "healthy.pt"), option, value)
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert option in result.err
