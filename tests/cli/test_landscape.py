"""`bncheck landscape` as a user and a script see it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bncheck
from bncheck.cli import run
from bncheck.core.errors import BncheckError
from tests.drifting.planted import SNAPSHOTS
from tests.networks import SAMPLES

FILES = [str(SNAPSHOTS[0]), str(SNAPSHOTS[-1])]
MODEL = f"{SAMPLES / 'nets.py'}:DigitNet"
DATA = str(SAMPLES / "digits-train.npz")
GIVEN = ["--model", MODEL, "--data", DATA, "--batches", "2", "--eta", "0.05"]


def typed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["landscape", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = typed(capsys, *GIVEN, "--json", *FILES)
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["schema"] == "bncheck.landscape/1"
    assert {
        "snapshots", "eta", "batches", "loss_range", "predictiveness", "beta", "ics", "lambda",
        "rate", "findings", "errors",
    } <= report.keys()  # fmt: skip
    assert report["snapshots"][0] == {"path": FILES[0], "label": "epoch 1", "step": 44}
    assert report["predictiveness"].keys() == {"l2", "relative", "cosine"}
    assert [layer["layer"] for layer in report["ics"]] == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert report["ics"][0]["l2"] == [0.0, 0.0]  # nothing lies before the first layer
    assert report["ics"][1]["l2"][0] > 0
    for mode in ("train", "eval"):
        for place, rate in enumerate(report["rate"][mode]):
            assert rate == pytest.approx(2 / report["lambda"][mode][place]["median"])
    # measured on these files: early in training, frozen statistics are sharper many times over
    assert report["rate"]["train"][0] > 5 * report["rate"]["eval"][0]


def test_every_format_and_the_files_stay(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = [Path(path).read_bytes() for path in FILES]
    page, picture = tmp_path / "page.html", tmp_path / "picture.svg"
    code, out, _ = typed(
        capsys, *GIVEN, "--report", f"html:{page}", "--report", f"svg:{picture}", *FILES
    )
    assert code == 0
    assert "stands rates up to about" in out
    assert "epoch 20" in out
    assert "Internal covariate shift" in page.read_text()
    assert picture.read_text().startswith("<svg")
    assert [Path(path).read_bytes() for path in FILES] == before


def test_one_that_cannot_be_read_is_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(Path(FILES[0]).read_bytes()[:9_000])
    code, out, err = typed(capsys, *GIVEN, "--json", FILES[1], str(cut))
    assert code == 2
    assert err.count("\n") == 1
    assert str(cut) in err
    assert len(json.loads(out)["snapshots"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", MODEL, "--data", DATA], "--eta"),
        (["--model", MODEL, "--data", DATA, "--eta", "0"], "not a learning rate"),
        (["--model", MODEL, "--data", DATA, "--eta", "nan"], "not a finite number"),
        (["--data", DATA, "--eta", ".1"], "needs a model"),
        (["--model", MODEL, "--eta", ".1"], "labelled data"),
        (["--model", MODEL, "--data", DATA, "--eta", ".1", "--loss", "math:pi"], "not a function"),
        (["--model", MODEL, "--data", DATA, "--eta", ".1", "--loss", "math:nope"], "nope"),
        (["--model", MODEL, "--data", "UNLABELLED", "--eta", ".1"], "no labels"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    with np.load(DATA) as held:
        np.savez(tmp_path / "x.npz", x=held["x"][:64])
    given = [str(tmp_path / "x.npz") if word == "UNLABELLED" else word for word in arguments]
    code, out, err = typed(capsys, *given, FILES[0])
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_statistics_that_cannot_be_used_and_records_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [*GIVEN[:5], "1", *GIVEN[6:]]
    code, out, _ = typed(capsys, *given, str(SAMPLES / "nan.pt"))
    assert code == 0
    assert "with running statistics the loss is not finite" in out
    code, out, err = typed(capsys, *given, str(SAMPLES / "record"))
    assert (code, out) == (2, "")
    assert "give checkpoints of the training" in err


def test_batches_of_one_class_are_said() -> None:
    data = [(torch.randn(8, 4), torch.full((8,), label)) for label in (0, 1)]
    report = bncheck.landscape(nn.Linear(4, 3), data, eta=0.1, batches=2)
    assert report.notes == (
        "every batch holds a single class, which no training step sees; shuffle the data",
    )


def test_a_module_in_memory_with_a_loss_of_its_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(32, 4)
    data = [(x, x.sum(dim=1, keepdim=True))]

    def huber(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.huber_loss(output, target)

    report = bncheck.landscape(model, data, eta=0.1, loss=huber)
    assert report.notes == ("the data have 1 batch, not 8",)
    assert report.last.start.median == pytest.approx(huber(model(x), data[0][1]).item(), rel=1e-5)
    model.load_state_dict(before)
    assert model.training
    again = bncheck.landscape(model, data, eta=0.1)
    wanted = nn.functional.mse_loss(model(x), data[0][1]).item()
    assert again.last.start.median == pytest.approx(wanted, rel=1e-5)
    assert not math.isnan(again.last.eval.value.median)


def test_a_rate_or_mode_that_means_nothing_is_refused() -> None:
    with pytest.raises(BncheckError, match="not a learning rate"):
        bncheck.landscape(nn.Linear(1, 1), [torch.ones(2, 1)], eta=-1.0)
    with pytest.raises(BncheckError, match="mode"):
        bncheck.landscape(nn.Linear(1, 1), [], eta=0.1, mode="both")  # type: ignore[arg-type]
