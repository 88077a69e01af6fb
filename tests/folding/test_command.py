"""`bncheck fold` on the sample models: what it prints, writes and refuses."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import bncheck
from bncheck.cli import run
from bncheck.folding.program.file import load_program, moved
from tests.folding.onnx.graphs.parts import conv_bn
from tests.planted import DigitNet

torch.set_num_threads(1)

SAMPLES = Path(__file__).parent.parent.parent / "sample_models"
DATA = ["--data", str(SAMPLES / "digits-test.npz")]
SMALL = ["--input", "1,8,8"]
MODEL = ["--model", f"{SAMPLES / 'nets.py'}:DigitNet", "--input", "1,8,8"]


USER = """
import sys
sys.path.insert(0, SAMPLES)
import torch
from nets import DigitNet

class Branches(DigitNet):
    def forward(self, x):
        y = self.bn1(self.conv1(x))
        if y.sum() > 0:
            return y
        return -y

class Exits(DigitNet):
    def forward(self, x):
        sys.exit(0)

class Keyword(DigitNet):
    def forward(self, x, *, scale):
        return super().forward(x * scale)

class Other(DigitNet):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
""".replace("SAMPLES", repr(str(SAMPLES)))


def _healthy() -> DigitNet:
    tensors = bncheck.open_checkpoint(SAMPLES / "healthy.pt").tensors
    model = DigitNet()
    model.load_state_dict({name: torch.from_numpy(tensors[name].copy()) for name in tensors})
    model.eval()
    return model


def test_a_checkpoint_becomes_a_program_that_runs_at_any_batch_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.pt2"
    assert run(["fold", str(SAMPLES / "healthy.pt"), *MODEL, "-o", str(out)]) == 0
    assert capsys.readouterr().out.startswith("folded   ")
    assert run(["fold", str(out), "--keep", "bn1", "--dry-run"]) == 2
    assert "there is none in it" in capsys.readouterr().err
    module = torch.export.load(out).module()
    model = _healthy()
    for batch in (1, 2, 7):
        x = torch.randn(batch, 1, 8, 8)
        torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_fold_of_broken_statistics_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fold", str(SAMPLES / "one-layer-reset.pt"), *MODEL, "--dry-run"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("plan ")
    assert told.err.count("\n") == 1
    assert "BN101 never-updated-statistics" in told.err
    assert run(["fold", str(SAMPLES / "healthy.pt"), *MODEL, "--dry-run"]) == 0
    assert not capsys.readouterr().err


def test_json_has_the_promised_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net.pt2"
    assert run(["fold", str(SAMPLES / "healthy.pt2"), "-o", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "bncheck.fold/1"
    assert report["summary"] == {"total": 4, "folded": 4, "kept": 0}
    assert set(report["batchnorms"][0]) == {"name", "op", "status", "into", "through", "reason"}
    assert report["parity"]["batches"] == [2, 3]
    assert report["parity"]["max_relative_error"] < 1e-5
    assert report["output"] == str(out)


def test_the_first_batch_of_the_data_is_the_example_and_is_compared_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "net.pt2")
    sources = (["healthy.pt", *MODEL[:2]], ["healthy-module.pt", "--trust"], ["healthy.pt2"])
    for name, *arguments in sources:
        assert run(["fold", str(SAMPLES / name), *arguments, *DATA, "-o", out, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["parity"]["batches"] == [2, 3, 60]
        assert report["parity"]["argmax_agreement"] == 1.0


def test_a_single_sample_still_gives_a_program_of_any_batch_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=np.ones((1, 1, 8, 8)))  # float64, too
    out = tmp_path / "net.pt2"
    data = ["--data", str(tmp_path / "one.npz")]
    assert run(["fold", str(SAMPLES / "healthy.pt"), *MODEL[:2], *data, "-o", str(out)]) == 0
    assert torch.export.load(out).module()(torch.zeros(5, 1, 8, 8)).shape == (5, 10)


def test_a_program_of_one_batch_size_is_compared_at_that_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = tmp_path / "fixed.pt2"
    torch.export.save(torch.export.export(_healthy(), (torch.zeros(5, 1, 8, 8),)), fixed)
    arguments = ["fold", str(fixed), *DATA, "-o", str(tmp_path / "net.pt2")]
    assert run(arguments) == 0
    assert "in batches of 5, the only size it takes" in " ".join(capsys.readouterr().out.split())


def test_several_inputs_by_name_and_dtype(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Two(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.table, self.fc = nn.Embedding(9, 4), nn.Linear(6, 3)\n"
        "        self.bn = nn.BatchNorm1d(3)\n"
        "    def forward(self, ids, *, scale=1.0) -> torch.Tensor:\n"
        "        return ids\n"
        "class Both(Two):\n"
        "    def forward(self, ids, features):\n"
        "        return self.bn(self.fc(torch.cat([self.table(ids), features], 1)))\n"
    )
    spec = f"{tmp_path / 'two.py'}:Both"
    namespace: dict[str, Any] = {}
    exec((tmp_path / "two.py").read_text(), namespace)
    torch.save(namespace["Both"]().state_dict(), tmp_path / "two.pt")
    out = tmp_path / "net.pt2"
    inputs = ["--input", "features=2", "--input", "ids=1:int64"]
    source = str(tmp_path / "two.pt")
    np.savez(tmp_path / "two.npz", features=np.ones((8, 2)), ids=np.ones(8, np.int64))
    (tmp_path / "two.py").write_text(
        (tmp_path / "two.py").read_text().replace("self.table(ids)", "self.table(ids).flatten(1)")
    )
    for given in (inputs, ["--data", str(tmp_path / "two.npz")]):
        assert run(["fold", source, "--model", spec, *given, "-o", str(out)]) == 0
    module = torch.export.load(out).module()
    assert module(torch.tensor([1, 2, 3]), torch.ones(3, 2)).shape == (3, 3)


def test_a_file_without_running_statistics_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {k: v for k, v in _healthy().state_dict().items() if not k.startswith("bn2.running")}
    torch.save(state, tmp_path / "lacks.pt")
    out = tmp_path / "net.pt2"
    assert run(["fold", str(tmp_path / "lacks.pt"), *MODEL, "-o", str(out)]) == 2
    assert "BN104 missing-statistics: bn2:" in capsys.readouterr().err
    assert not out.exists()


def test_corrupt_statistics_in_a_program_and_in_onnx_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _healthy()
    assert model.bn3.running_var is not None
    model.bn3.running_var[1] = -1
    program = torch.export.export(model, (torch.zeros(2, 1, 8, 8),))
    torch.export.save(program, tmp_path / "bad.pt2")
    onnx_model = onnx.load(SAMPLES / "healthy.onnx")
    (norm,) = [n for n in onnx_model.graph.node if n.op_type == "BatchNormalization"][:1]
    (var,) = [t for t in onnx_model.graph.initializer if t.name == norm.input[4]]
    var.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(var), var.name))
    onnx.save(onnx_model, tmp_path / "bad.onnx")
    for name in ("bad.pt2", "bad.onnx"):
        out = tmp_path / f"out{Path(name).suffix}"
        assert run(["fold", str(tmp_path / name), "-o", str(out)]) == 2
        assert "BN103 negative-variance" in capsys.readouterr().err
        assert not out.exists()


def test_a_pickled_module_in_training_mode_is_folded_as_in_eval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(_healthy().train(), tmp_path / "train.pt")
    out = tmp_path / "net.pt2"
    arguments = ["fold", str(tmp_path / "train.pt"), "--trust", *SMALL, "-o", str(out)]
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert "4 of 4 BatchNorms folded" in captured.out
    assert "was saved in training mode, and is folded as in eval()" in captured.err


def test_what_a_model_prints_does_not_reach_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loud.py").write_text(
        USER + "\nclass Loud(DigitNet):\n    def forward(self, x):\n"
        "        print('hello')\n        return super().forward(x)\n"
    )
    model = ["--model", f"{tmp_path / 'loud.py'}:Loud", *SMALL]
    assert run(["fold", str(SAMPLES / "healthy.pt"), *model, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["folded"] == 4


def test_the_input_itself_is_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "net.pt2"
    copy.write_bytes((SAMPLES / "healthy.pt2").read_bytes())
    assert run(["fold", str(copy), "-o", str(copy)]) == 2
    assert "is the input itself" in capsys.readouterr().err
    assert copy.read_bytes() == (SAMPLES / "healthy.pt2").read_bytes()


def test_a_folder_that_cannot_be_written_to_is_found_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    monkeypatch.setattr("bncheck.reading.opening.open_checkpoint", None)  # no work is done
    assert run(["fold", str(SAMPLES / "healthy.pt2"), "-o", str(tmp_path / "net.pt2")]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "net.pt2"
    assert run(["fold", str(SAMPLES / "healthy.pt2"), "-o", str(out), "--dry-run"]) == 0
    assert not out.exists()


def test_keep_leaves_some_and_fail_unfolded_refuses_to_write(tmp_path: Path) -> None:
    out = tmp_path / "net.pt2"
    source = str(SAMPLES / "healthy.pt2")
    assert run(["fold", source, "-o", str(out), "--keep", "bn1", "--fail-unfolded"]) == 1
    assert not out.exists()
    assert run(["fold", source, "-o", str(out), "--keep", "bn*"]) == 0
    assert "bn1.running_mean" in torch.export.load(out).state_dict


def test_a_tolerance_that_nothing_meets_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.pt2"
    source = str(SAMPLES / "healthy.pt2")
    assert run(["fold", source, "-o", str(out), "--tolerance", "1e-12"]) == 1
    assert "nothing was written: beyond the tolerance" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["healthy.pt", "-o", "OUT.pt2"], "--model"),
        (["healthy.pt", *MODEL[:2], "-o", "OUT.pt2"], "--input"),
        (["healthy.pt", *MODEL[:3], "3,8,8", "-o", "OUT.pt2"], "nets.py:23"),
        (["healthy.pt", *MODEL[:3], "3x8", "-o", "OUT.pt2"], "is not a shape"),
        (["healthy.pt2"], "-o is missing"),
        (["healthy.pt", *MODEL, *DATA, "-o", "OUT.pt2"], "exclude each other"),
        (["healthy.pt", *MODEL, "--device", "cuda:99", "-o", "OUT.pt2"], "--device cuda:99"),
        (["healthy.pt", *MODEL[:3], "y=1,8,8", "-o", "OUT.pt2"], "it takes x"),
        (["healthy.pt", *MODEL, "--input", "2", "-o", "OUT.pt2"], "does not fit the model's"),
        (["healthy.pt", *MODEL[:3], "1,8,8:int7", "-o", "OUT.pt2"], "unknown dtype 'int7'"),
        (["healthy.pt", *MODEL[:2], "--data", "none.npz", "-o", "OUT.pt2"], "none.npz: does not"),
        (["healthy.pt", *MODEL[:2], "--data", "WIDE.npz", "-o", "OUT.pt2"], "rejects batch 0"),
        (["healthy.pt", "--model", "none.py:Net", *MODEL[2:], "-o", "OUT.pt2"], "no file"),
        (["healthy.pt", "--model", "none.net:Net", *MODEL[2:], "-o", "OUT.pt2"], "no module"),
        (["healthy.pt", "--model", "USER.py:Branches", *SMALL, "-o", "OUT.pt2"], "branches on the"),
        (["healthy.pt", "--model", "USER.py:Branches", *SMALL, "-o", "OUT.pt2"], "USER.py:10"),
        (["healthy.pt", "--model", "USER.py:Exits", *SMALL, "-o", "OUT.pt2"], "sys.exit(0)"),
        (["healthy.pt", "--model", "USER.py:Other", *SMALL, "-o", "OUT.pt2"], "lacks"),
        (["healthy.pt", "--model", "USER.py:Keyword", *SMALL, "-o", "OUT.pt2"], "by keyword only"),
        (["nan.pt", *MODEL, "-o", "OUT.pt2"], "BN102"),
        (["negative-variance.pt", *MODEL, "-o", "OUT.pt2"], "BN103"),
        (["healthy-module.pt", "--input", "1,8,8", "-o", "OUT.pt2"], "or --trust"),
        (["healthy-torchscript.pt", "-o", "OUT.pt2"], "is TorchScript"),
        (["healthy.pt2", "--input", "1,8,8", "-o", "OUT.pt2"], "leave --input out"),
        (["healthy.pt2", "--key", "ema", "-o", "OUT.pt2"], "under the key"),
        (
            ["healthy.onnx", "--data", "WIDE.npz", "-o", "OUT.onnx"],
            "is ?x1x8x8, and the data gives",
        ),
        (["healthy.pt2", "--freeze-inputs", "-o", "OUT.pt2"], "is for ONNX models"),
        (["healthy.pt2", "-o", "OUT.pt2", "--report", "json:OUT.pt2"], "no place for a report"),
        (["nowhere.pt2", "-o", "OUT.pt2"], "nowhere.pt2"),
        (["nets.py", "-o", "OUT.pt2"], "nets.py"),
        (["healthy.pt2", "--keep", "stem.*", "-o", "OUT.pt2"], "they are bn1, bn2, bn3, bn4"),
        (["healthy.onnx", "--keep", "stem.*", "-o", "OUT.onnx"], "--keep 'stem.*' matches no"),
        (["healthy.pt2", "-o", "OUT.txt"], "does not end in"),
        (["healthy.pt2", "-o", "nowhere/OUT.pt2"], "does not exist"),
        (["healthy.pt2", "-o", "OUT.safetensors"], "names no modules"),
        (["healthy.onnx", "-o", "OUT.pt2"], "an ONNX model"),
        (["healthy.pt2", "-o", "OUT.onnx"], "for ONNX models only"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    out.mkdir()
    (given / "user.py").write_text(USER)
    np.savez(given / "wide.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    places = {"OUT": out / "out", "USER": given / "user", "WIDE": given / "wide"}
    for word, place in places.items():
        arguments = [argument.replace(word, str(place)) for argument in arguments]
    assert run(["fold", str(SAMPLES / arguments[0]), *arguments[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words.replace("USER", "user") in captured.err
    assert list(out.iterdir()) == []


def test_a_state_dict_loads_into_its_own_architecture_only(tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    assert run(["fold", str(SAMPLES / "healthy.pt"), *MODEL, "-o", str(out)]) == 0
    original, model = _healthy(), DigitNet().eval()
    bncheck.load_folded(model, out)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(model(x), original(x), rtol=1e-4, atol=1e-4)
    assert isinstance(model.bn1, torch.nn.Identity)
    for other in (model, torch.nn.Linear(2, 3)):
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(bncheck.BncheckError, match="model"):
            bncheck.load_folded(other, out)
        assert all(torch.equal(before[name], t) for name, t in other.state_dict().items())


def _repacked(path: Path, out: Path, change: object) -> None:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))  # type: ignore[operator]


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


def test_sample_inputs_of_a_stranger_are_not_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    payload = io.BytesIO()
    torch.save(_Payload(marker), payload)

    def poison(name: str, data: bytes) -> bytes:
        return payload.getvalue() if "sample_inputs" in name else data

    bad = tmp_path / "bad.pt2"
    _repacked(SAMPLES / "healthy.pt2", bad, poison)
    assert load_program(bad).graph is not None
    assert not marker.exists()


def test_a_weight_marked_as_a_pickle_is_refused(tmp_path: Path) -> None:
    def mark(name: str, data: bytes) -> bytes:
        return data.replace(b'"use_pickle": false', b'"use_pickle": true')

    bad = tmp_path / "bad.pt2"
    _repacked(SAMPLES / "healthy.pt2", bad, mark)
    with pytest.raises(bncheck.BncheckError, match="pickle"):
        load_program(bad)


def test_a_written_program_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    out = tmp_path / "net.pt2"
    assert run(["fold", str(SAMPLES / "healthy.pt"), *MODEL, "-o", str(out)]) == 0
    with zipfile.ZipFile(out) as archive:
        text = b"".join(archive.read(name) for name in archive.namelist())
    assert str(SAMPLES).encode() not in text
    assert b"nets.py" not in text


def test_training_on_does_not_change_the_folded_program() -> None:
    model = _healthy()
    result = bncheck.fold(model, (torch.randn(2, 1, 8, 8),))
    x = torch.randn(3, 1, 8, 8)
    before = result.module()(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(before, result.module()(x))


def test_the_rules_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    for code in ("BN402", "BN403", "BN404"):
        assert run(["rule", code]) == 0
        assert code in capsys.readouterr().out


def test_a_folded_onnx_model_is_clean_and_runs(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    assert run(["fold", str(SAMPLES / "healthy.onnx"), "-o", str(out)]) == 0
    onnx.checker.check_model(str(out), full_check=True)
    model = onnx.load(out)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (name,) = [given.name for given in session.get_inputs()]
    for batch in (1, 7):
        x = torch.randn(batch, 1, 8, 8)
        (given,) = session.run(None, {name: x.numpy()})
        expected = _healthy()(x).detach()
        torch.testing.assert_close(torch.from_numpy(given), expected, rtol=1e-4, atol=1e-4)


def test_device_moves_all_of_the_program() -> None:
    # "meta" stands for a device that this machine may not have.
    program = bncheck.fold(_healthy(), (torch.zeros(2, 1, 8, 8),)).program
    assert moved(program, "cpu") is program
    there = moved(program, "meta")
    assert {tensor.device.type for tensor in there.state_dict.values()} == {"meta"}
    assert {name for name, _ in there.named_parameters()} == {
        n for n, _ in program.named_parameters()
    }


SHAPES = """
import torch
from torch import nn

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.bn = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.bn2 = nn.BatchNorm1d(3)

class Fixed(Base):
    def forward(self, x):
        return self.bn(self.fc(x)).view(2, 3)

class Twice(Base):
    def forward(self, x):
        return self.bn2(self.fc(torch.relu(self.bn(self.fc(x)))))

class Branches(Base):
    def forward(self, x):
        y = self.fc(x)
        return y, self.bn(y), self.bn2(y)

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
    def forward(self, x):
        return self.fc(x)
"""


def _shaped(tmp_path: Path, name: str, ending: str = "pt2") -> list[str]:
    """The words of a command that folds one of the classes above."""
    (tmp_path / "shapes.py").write_text(SHAPES)
    namespace: dict[str, Any] = {}
    exec(SHAPES, namespace)
    torch.save(namespace[name]().state_dict(), tmp_path / "net.pt")
    model = ["--model", f"{tmp_path / 'shapes.py'}:{name}", "--input", "3"]
    return ["fold", str(tmp_path / "net.pt"), *model, "-o", str(tmp_path / f"out.{ending}")]


def test_a_batch_size_written_into_the_model_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*_shaped(tmp_path, "Fixed"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["batches"] == [2]


def test_a_state_dict_that_cannot_hold_the_fold_names_the_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(_shaped(tmp_path, "Twice", "safetensors")) == 2
    line = capsys.readouterr().err
    assert "fc is called more than once" in line
    assert "write a .pt2 instead" in line
    assert not (tmp_path / "out.safetensors").exists()


def test_what_stays_for_one_reason_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(_shaped(tmp_path, "Branches")) == 0
    out = capsys.readouterr().out
    assert out.startswith("kept     ")
    assert "0 of 2 BatchNorms folded" in out
    assert out.count("is also an output of the model") == 1
    assert "2 BatchNorms: bn, bn2" in out


def test_a_model_without_batchnorm_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(_shaped(tmp_path, "Plain")) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("nothing  ")
    assert "holds no BatchNorm" in captured.err
    assert (tmp_path / "out.pt2").exists()


def test_quiet_verbose_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = str(SAMPLES / "healthy.pt2"), str(tmp_path / "net.pt2")
    text, data = tmp_path / "report.txt", tmp_path / "report.json"
    reports = ["--report", f"text:{text}", "--report", f"json:{data}"]
    assert run(["fold", source, "-o", out, "--quiet", *reports]) == 0
    assert capsys.readouterr().out == ""
    assert "bn4        fc1" in text.read_text()
    assert json.loads(data.read_text())["output"] == out
    assert run(["fold", source, "-o", out]) == 0
    assert "went into" not in capsys.readouterr().out
    assert run(["fold", source, "-o", out, "--verbose"]) == 0
    assert "bn4        fc1" in capsys.readouterr().out
    assert run(["fold", source, "-o", out, "--verbose", "--quiet"]) == 2
    assert run(["fold", source, "-o", out, "--keep", "bn1", "--fail-unfolded", "-q"]) == 1
    assert "error BN402 bn1: kept: --keep asks for it" in capsys.readouterr().out


def test_an_onnx_model_is_compared_on_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.onnx"
    data = str(SAMPLES / "digits-test.npz")
    command = ["fold", str(SAMPLES / "healthy.onnx"), "--data", data, "-o", str(out), "--json"]
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["batches"][:3] == [2, 3, 60]
    assert out.exists()


def test_weights_that_a_caller_may_override_are_folded_where_nobody_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(conv_bn(listed=True)(), source)
    assert run(["fold", str(source), "--dry-run"]) == 0
    assert "--freeze-inputs says that nobody does" in capsys.readouterr().out
    assert run(["fold", str(source), "--freeze-inputs", "-o", str(out), "--quiet"]) == 0
    model = onnx.load(out)
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert [info.name for info in model.graph.input] == ["x"]
