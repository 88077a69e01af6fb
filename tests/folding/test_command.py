"""`bncheck fold` on the sample models: what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bncheck
from bncheck.cli import run
from tests.folding.command import DATA, MODEL, SAMPLES, SMALL, USER, shaped
from tests.planted import DigitNet, healthy

torch.set_num_threads(1)


def test_a_checkpoint_becomes_a_program_that_runs_at_any_batch_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.pt2"
    assert run(["fold", str(SAMPLES / "healthy.pt"), *MODEL, "-o", str(out)]) == 0
    assert capsys.readouterr().out.startswith("folded   ")
    assert run(["fold", str(out), "--keep", "bn1", "--dry-run"]) == 2
    assert "there is none in it" in capsys.readouterr().err
    module = torch.export.load(out).module()
    model = healthy()
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
    keys = {"name", "op", "kind", "status", "into", "through", "reason"}
    assert set(report["batchnorms"][0]) == keys
    assert report["parity"]["batches"] == [2, 1]
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
        assert report["parity"]["batches"] == [2, 1, 60]
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
    torch.export.save(torch.export.export(healthy(), (torch.zeros(5, 1, 8, 8),)), fixed)
    arguments = ["fold", str(fixed), *DATA, "-o", str(tmp_path / "net.pt2")]
    assert run(arguments) == 0
    assert "in batches of 5, the only size it takes" in " ".join(capsys.readouterr().out.split())


_FIXED = """import torch
from torch import nn
class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)
        self.register_buffer("places", torch.tensor([[[0], [2], [1], [3]]]))
    def forward(self, x):
        return torch.take_along_dim(self.bn(self.conv(x)), self.places, 1)
"""


def test_a_batch_that_torch_export_fixes_is_noted_and_can_be_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(_FIXED)
    namespace: dict[str, Any] = {}
    exec(_FIXED, namespace)
    torch.save(namespace["Fixed"]().state_dict(), tmp_path / "net.pt")
    model = ["--model", f"{tmp_path / 'net.py'}:Fixed", "--input", "4,6", "-o"]
    arguments, out = ["fold", str(tmp_path / "net.pt"), *model], tmp_path / "out.pt2"
    assert run([*arguments, str(out), "--json"]) == 0
    captured = capsys.readouterr()
    (note,) = json.loads(captured.out)["notes"]
    assert note.startswith("torch.export fixes the batch at 2: the result takes no other size; ")
    assert "--static-batch makes it 1" in note
    assert note in captured.err
    assert torch.export.load(out).module()(torch.zeros(2, 4, 6)).shape == (2, 4, 6)
    assert run([*arguments, str(out), "--static-batch"]) == 0
    captured = capsys.readouterr()
    assert "in batches of 1, the only size it takes" in " ".join(captured.out.split())
    assert "note" not in captured.err
    assert torch.export.load(out).module()(torch.zeros(1, 4, 6)).shape == (1, 4, 6)
    assert run([*arguments, str(tmp_path / "out.safetensors")]) == 0  # takes any batch
    assert "note" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([str(SAMPLES / "healthy.pt2"), "-o", "net.pt2"], "already defines its axes"),
        (
            [str(SAMPLES / "healthy.pt"), *MODEL, "-o", "net.safetensors"],
            "for a .pt2 of the whole model",
        ),
    ],
)
def test_a_static_batch_where_there_is_none_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fold", *arguments, "--static-batch"]) == 2
    assert said in capsys.readouterr().err


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


def test_a_pickled_module_in_training_mode_is_folded_as_in_eval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(healthy().train(), tmp_path / "train.pt")
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


def test_a_state_dict_loads_into_its_own_architecture_only(tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    assert run(["fold", str(SAMPLES / "healthy.pt"), *MODEL, "-o", str(out)]) == 0
    original, model = healthy(), DigitNet().eval()
    bncheck.load_folded(model, out)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(model(x), original(x), rtol=1e-4, atol=1e-4)
    assert isinstance(model.bn1, torch.nn.Identity)
    for other in (model, torch.nn.Linear(2, 3)):
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(bncheck.BncheckError, match="model"):
            bncheck.load_folded(other, out)
        assert all(torch.equal(before[name], t) for name, t in other.state_dict().items())


def test_training_on_does_not_change_the_folded_program() -> None:
    model = healthy()
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


def test_a_batch_size_written_into_the_model_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*shaped(tmp_path, "Fixed"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["batches"] == [2]


def test_what_stays_for_one_reason_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shaped(tmp_path, "Branches")) == 0
    out = capsys.readouterr().out
    assert out.startswith("kept     ")
    assert "0 of 2 BatchNorms folded" in out
    assert out.count("is also an output of the model") == 1
    assert "2 BatchNorms: bn, bn2" in out


def test_a_model_without_batchnorm_is_not_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shaped(tmp_path, "Plain")) == 0
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
