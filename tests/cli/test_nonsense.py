"""Arguments that mean nothing, or two things: one line says which, and what to write instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bncheck
from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.data import DataOptions
from tests.planted import SAMPLES

HEALTHY = str(SAMPLES / "healthy.pt")
MODEL = ("--model", f"{SAMPLES / 'nets.py'}:DigitNet")
DATA = ("--data", str(SAMPLES / "digits-train.npz"))
ONE = ("inspect", HEALTHY)
BOTH = (*ONE, *MODEL, *DATA)
INPUT = ("--input", "1,8,8")
EXPORT = ("export", HEALTHY, *MODEL, *INPUT, "-o", "x.onnx")
PROGRAM = str(SAMPLES / "healthy.pt2")
RECORD = str(SAMPLES / "record")
TYPED: dict[tuple[str, ...], str] = {
    (*BOTH, "--scale", "0"): "--scale 0 is not a number above 0; write e.g. --scale 255",
    (*BOTH, "--scale", "nan"): "--scale nan is not a number above 0",
    (*BOTH, "--scale", "-255"): "--scale -255 is not a number above 0",
    (*BOTH, "--std", "0"): "--std 0 is not a number above 0",
    (*BOTH, "--std", "0.2,nan"): "--std nan is not",
    (*BOTH, "--mean", "inf"): "--mean inf is not a finite number",
    (*BOTH, "--mean", ","): "--mean ',' is not a list of numbers",
    (*BOTH, "--size", "32.5"): "--size '32.5' is not a list of whole numbers; write e.g. --size",
    (*BOTH, "--size", "0"): "--size 0 is not a whole number above 0",
    (*BOTH, "--size", "8,8,8"): "--size has 3 numbers",
    (*ONE, "--momentum", "nan"): "--momentum nan is not a finite number; write e.g. --momentum 0.1",
    (*ONE, "--timeout", "nan"): "--timeout nan is not a finite number",
    ("fold", HEALTHY, "--dry-run", "--tolerance", "nan"): "--tolerance nan is not a finite number",
    ("watch", RECORD, "--interval", "nan"): "--interval nan is not a finite number",
    ("inspect", ""): "the word after inspect is empty",
    ("inspect", "--", ""): "the word after -- is empty",
    ("recalibrate", "", "-o", "x.pt"): "the word after recalibrate is empty",
    ("watch", ""): "the word after watch is empty",
    (*ONE, "--data", ""): "the word after --data is empty",
    (*ONE, "--key="): "--key is empty",
    (*ONE, "-o", "-"): "-: is not a file name",
    ("recalibrate", HEALTHY, "-o", "-"): "-: is not a file name",
    (*ONE, "-o", "r.foo"): "no format has the ending .foo; write .html, .htm, .json, .md, .sarif, "
    ".xml or .txt",
    ("watch", RECORD, "-o", "r.foo"): ".svg",
    (*ONE, "--json", "--format", "html"): "--json and --format html exclude each other",
    ("rule", "BN101", "--json", "--format", "html"): "--json and --format html exclude each other",
    (*ONE, "--device", "cuda"): "--device needs a model",
    (*ONE, "--model-arg", "depth=20"): "--model-arg needs a model",
    ("fold", HEALTHY, *MODEL, "--device", "cuda", "--dry-run"): "--device has no effect here",
    (*EXPORT, "--no-fold", "--norms", "all"): "--no-fold keeps every norm, whatever --norms",
    (*EXPORT, "--no-fold", "--residual", "bn"): "--no-fold keeps every norm, whatever --residual",
    (*EXPORT, "--input-name", "z", "--output-name", "z"): "--output-name z is the name of an input",
    ("fold", PROGRAM, "--trust", *INPUT, "--dry-run"): "is a program, not a pickled module; leave",
    (*ONE, "--select", "BN101", "--ignore", "BN101"): "without BN101 there is no rule left",
    (*ONE, "--ignore", "BN"): "without BN there is no rule left",
}


@pytest.mark.parametrize("arguments", TYPED, ids=" ".join)
def test_nonsense_is_refused(
    arguments: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = run(list(arguments))
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert TYPED[arguments] in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["", ".txt", ".log", ".2"])
def test_text_needs_no_ending(ending: str, tmp_path: Path) -> None:
    target = tmp_path / f"report{ending}"
    assert run([*ONE, "-o", str(target), "--quiet"]) == 0
    assert target.exists()


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"max_samples": 0}, {"scale": 0.0}, {"std": (1.0, 0.0)}]
)
def test_nonsense_is_refused_in_python(options: dict[str, float]) -> None:
    with pytest.raises(BncheckError, match="above 0"):
        DataOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"eps": float("nan")}, {"eps": -1}, {"momentum": 2.0}, {"train_batch_size": 0}, {"path": ""}],
    ids=str,
)
def test_nonsense_is_refused_by_inspect_in_python(options: dict[str, Any]) -> None:
    with pytest.raises(BncheckError):
        bncheck.inspect(options.pop("path", HEALTHY), **options)


IGNORED = {
    ("inspect", str(SAMPLES / "nan.pt"), "--ignore", "BN102"): "BN102 non-finite-statistics is "
    "ignored; it would be an error in bn1, bn2, bn3 and 1 more",
    ("inspect", str(SAMPLES / "stale.pt"), *MODEL, *DATA, "--ignore", "BN2"): "W2 is 0.99 (warning "
    "from 0.20), and the rules that would say why are ignored (BN2)",
}


@pytest.mark.parametrize("arguments", IGNORED, ids=["file", "data"])
def test_what_an_ignored_rule_would_have_said_is_noted(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["summary"]["errors"] == 0
    assert IGNORED[arguments] in err
    run(["inspect", HEALTHY, *arguments[2:]])
    assert "ignored" not in capsys.readouterr().err
