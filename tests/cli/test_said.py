"""What commands say agrees with itself: names, verdicts, limits, next steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bncheck.cli import run
from bncheck.core.words import a_kind
from bncheck.folding.result import Parity, findings_of
from bncheck.recording import Recorder
from tests.planted import SAMPLES
from tests.warm import forked

MODEL = ("--model", f"{SAMPLES / 'nets.py'}:DigitNet")
DATA = ("--data", str(SAMPLES / "digits-train.npz"))


def test_a_record_given_to_a_model_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    record = str(SAMPLES / "record")
    for command in (["inspect", record, *MODEL, *DATA], ["fold", record, *MODEL, "--dry-run",
                    "--input", "1,8,8"]):  # fmt: skip
        assert run(command) == 2
        assert "is a record, which holds normalisation layers" in capsys.readouterr().err


def test_a_w2_beyond_the_limits_is_healthy_only_with_a_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A network of frozen norms does better with its statistics than with measured ones."""
    torch.manual_seed(0)
    x = torch.randn(600, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 2
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)).eval()
    labels = (x[:, 0] * x[:, 1] > 3).long()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(300):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.save(model, tmp_path / "frozen.pt")
    torch.save((x, labels), tmp_path / "data.pt")
    path, data = str(tmp_path / "frozen.pt"), str(tmp_path / "data.pt")
    run(["inspect", path, "--trust", "--data", data, "--ignore", "BN101"])
    out = capsys.readouterr().out
    assert out.startswith("healthy")
    assert "; the results show no harm (BN2" in " ".join(out.split())


def test_an_error_in_a_record_is_broken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    recorder = Recorder(model, tmp_path, every=2, on_finding=lambda finding: None)
    for step in range(6):
        model(torch.randn(16, 4) * (float("nan") if step == 3 else 1.0))
        recorder.step()
    recorder.close()
    for command in ("watch", "drift", "inspect"):
        assert run([command, str(tmp_path)]) == 1
        out = capsys.readouterr().out
        assert out.startswith("BROKEN"), command
        assert "says what to do" not in out
        assert "recalibrate" in out


def test_a_tolerance_of_the_user_is_no_bug_of_ours() -> None:
    parity = Parity(2.5e-7, 0.0, 0.0, (2,), parts_at="conv", excess=2.0)
    (ours,) = findings_of((), parity, fail_unfolded=False)
    (theirs,) = findings_of((), parity, fail_unfolded=False, tolerance=0.0)
    assert ours.fix.startswith("please report it")
    assert theirs.fix.startswith("leave --tolerance out")


def test_what_is_piped_in_is_called_as_it_was_typed() -> None:
    path = SAMPLES / "stale.pt"

    def piped(*arguments: str) -> str:
        return forked(arguments, Path.cwd(), stdin=path).stdout

    shape = ("--input", "1,8,8")
    assert piped("compare", "-", str(path), *MODEL, *shape).splitlines()[0].endswith(" against -")
    out = piped("inspect", "-", *MODEL, *DATA)
    assert "bncheck recalibrate - " in out
    assert "-o recalibrated.pt" in out


@pytest.mark.parametrize(
    ("value", "kind"), [(3, "an int"), ({}, "a dict"), (None, "None"), (torch.zeros(1), "a Tensor")]
)
def test_kinds_of_things_have_their_article(value: object, kind: str) -> None:
    assert a_kind(value) == kind
