"""`bncheck drift` as a user and a script see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bncheck.cli import run
from tests.drifting.planted import SNAPSHOTS, loaded, write
from tests.networks import SAMPLES
from tests.warm import forked

FILES = [str(path) for path in SNAPSHOTS]


def typed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["drift", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_has_the_promised_keys_and_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = typed(capsys, *FILES, "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert list(report) == [
        "schema", "bncheck", "snapshots", "layers", "w2", "mean_shift", "log_variance_ratio",
        "reference", "source", "findings", "errors",
    ]  # fmt: skip
    assert report["schema"] == "bncheck.drift/1"
    assert report["snapshots"][0] == {"path": FILES[0], "label": "epoch 1", "step": 44}
    assert report["layers"] == ["bn1", "bn2", "bn3", "bn4"]
    for key in ("w2", "mean_shift", "log_variance_ratio"):
        assert [len(row) for row in report[key]] == [6, 6, 6, 6]
    assert report["reference"] == {"kind": "last", "path": FILES[-1]}
    assert report["source"] == "buffers"


def test_a_truncated_snapshot_is_a_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths = write(tmp_path, loaded())
    paths[1].write_bytes(paths[1].read_bytes()[:20_000])
    code, out, err = typed(capsys, *map(str, paths), "--json")
    assert code == 2
    assert err.startswith(f"bncheck: error: {paths[1]}: ")
    assert err.count("\n") == 1
    report = json.loads(out)
    assert len(report["snapshots"]) == 5
    assert [error["path"] for error in report["errors"]] == [str(paths[1])]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_it_fits_the_width_of_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for colour in ("", "1"):
        monkeypatch.setenv("FORCE_COLOR", colour)
        monkeypatch.setenv("TERM", "xterm-256color")
        _, out, _ = typed(capsys, *FILES)
        assert ("\x1b[48;5;" in out) is bool(colour)
        if not colour:
            assert max(map(len, out.splitlines())) <= width
            assert "epoch 14" in out


def test_a_long_run_is_binned(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [content for _ in range(40) for content in loaded()]
    for place, content in enumerate(files):
        content["step"] = place
        del content["epoch"]
        for name, tensor in content["state_dict"].items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(place + 1)  # one that falls is a fault of its own
    names = [f"step-{place}.pt" for place in range(len(files))]
    code, out, _ = typed(capsys, *map(str, write(tmp_path, files, names)))
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
    assert "each column is the largest of" in out


ERRORS = [
    (["nowhere-1.pt", "nowhere-2.pt"], "nowhere-1.pt", "check the path"),
    ([FILES[0]], "a series needs two snapshots, and there is one", "at least two"),
    ([FILES[0], FILES[0]], "a series needs two snapshots, and there is one", "at least two"),
    ([*FILES, "--reference", "middle.pt"], "middle.pt: does not exist", "check the path"),
    ([*FILES, "--layers", "all"], "only with a model and data", "--model"),
    ([*FILES, "--model", "nets.py:Net"], "--model needs data", "--data"),
    ([*FILES, "--data", "x.npz"], "--data needs a model", "--model"),
    ([*FILES, "--select", "BN9"], "BN9", "rule"),
]


@pytest.mark.parametrize(("arguments", "says", "hint"), ERRORS, ids=lambda v: str(v)[-30:])
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str, hint: str
) -> None:
    code, out, err = typed(capsys, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert hint in err
    assert err.count("\n") == 1


def test_svg_is_for_drift_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = typed(capsys, *FILES, "--format", "svg")
    assert code == 0
    assert out.startswith("<svg ")
    code = run(["inspect", FILES[0], "--format", "svg"])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert "'svg' is not one of" in captured.err


def test_files_alone_need_no_torch() -> None:
    code = (
        "import sys; from bncheck.cli import run; run(sys.argv[1:]); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "drift", *FILES], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_findings_decide_the_exit_code(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = loaded()
    for content in files:
        content["state_dict"]["bn1.running_mean"] = files[0]["state_dict"]["bn1.running_mean"]
        content["state_dict"]["bn1.running_var"] = files[0]["state_dict"]["bn1.running_var"]
    paths = [str(path) for path in write(tmp_path, files)]
    assert typed(capsys, *paths)[0] == 0
    code, out, _ = typed(capsys, *paths, "--fail-on", "warning")
    assert code == 1
    assert out.startswith("SUSPECT")
    assert "BN302" in out
    assert typed(capsys, *paths, "--fail-on", "warning", "--ignore", "BN302")[0] == 0


def test_many_layers_show_those_that_matter_in_the_order_of_the_network(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = [f"layer{place}" for place in range(53)]
    moves = {name: (place * 17) % 53 + 1 for place, name in enumerate(names)}  # all different
    files = []
    for step in range(3):
        state = {}
        for name in names:
            state[f"{name}.running_mean"] = torch.full((2,), 0.002 * moves[name] * (2 - step))
            state[f"{name}.running_var"] = torch.ones(2)
        files.append({"state_dict": state, "step": step})
    paths = [str(path) for path in write(tmp_path, files, ["0.pt", "1.pt", "2.pt"])]

    def rows(*more: str) -> tuple[list[str], str]:
        _, out, _ = typed(capsys, *paths, *more)
        return [line.split()[0] for line in out.splitlines() if line.startswith("layer")][1:], out

    shown, out = rows()
    furthest = sorted(names, key=lambda name: -moves[name])
    assert shown[:5] == furthest[:5]
    assert shown[5:] == [name for name in names if name in furthest[5:30]]
    assert "23 layers left out" in out
    assert "--verbose" in out
    every, out = rows("--verbose")
    assert sorted(every) == sorted(names)
    assert "left out" not in out


def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text(
        "import importlib.util, os, signal\n"
        f"spec = importlib.util.spec_from_file_location('samples', {str(SAMPLES / 'nets.py')!r})\n"
        "samples = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(samples)\n"
        "class Net(samples.DigitNet):\n"
        "    calls = 0\n"
        "    def forward(self, x):\n"
        "        Net.calls += 1\n"
        "        if Net.calls == 9:  # in the midst of the series\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "        return super().forward(x)\n"
    )
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    done = forked(
        ["drift", *FILES, "--model", "nets.py:Net", "--data", str(SAMPLES / "digits-train.npz"),
         "--report", "html:drift.html", "-o", "drift.txt"],
        tmp_path, TMPDIR=str(tmp_path),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
