"""`bncheck export` as its users meet it, and the circle back to inspect and fold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bncheck.cli import run
from bncheck.reporting.formats import Format
from tests.folding.command import DATA, SAMPLES
from tests.shipping.nets import listing

torch.set_num_threads(1)

HEALTHY = [str(SAMPLES / "healthy.pt"), "--model", f"{SAMPLES / 'nets.py'}:DigitNet"]
#: What CONTRACT promises.
KEYS = {"schema", "bncheck", "onnx", "batchnorm_nodes", "inputs", "outputs", "parity", "fold"}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with its reports in every format beside it."""
    folder = tmp_path_factory.mktemp("cli")
    reports = [f"{f.value}:{folder / f.value}" for f in _formats()]
    words = [word for report in reports for word in ("--report", report)]
    path = folder / "net.onnx"
    assert run(["export", *HEALTHY, *DATA, "-o", str(path), *words]) == 0
    return path


def _formats() -> list[Format]:
    """All but the picture that only drift has."""
    return [format_ for format_ in Format if format_ is not Format.SVG]


def test_json_has_the_promised_keys(net: Path) -> None:
    report = json.loads((net.parent / "json").read_text())
    assert set(report) >= KEYS
    assert report["schema"] == "bncheck.export/1"
    assert set(report["onnx"]) >= {"path", "opset", "bytes", "sha256"}
    assert report["onnx"]["bytes"] == net.stat().st_size
    assert report["batchnorm_nodes"] == 0
    assert [set(port) for port in report["inputs"]] == [{"name", "dtype", "shape"}]
    assert [level["level"] for level in report["parity"]] == ["disable_all", "extended", "all"]
    for level in report["parity"]:
        assert level["batches"] == [1, 3, 60]
        assert level["argmax_agreement"] == 1.0
        assert level["max_relative_error"] < 1e-5
    assert report["fold"]["summary"] == {"total": 4, "folded": 4, "rewritten": 0, "kept": 0}
    assert [timed["level"] for timed in report["latency"]] == ["disable_all", "extended", "all"]


def test_every_format_tells_it(net: Path) -> None:
    for format_ in _formats():
        text = (net.parent / format_.value).read_text()
        assert text
        if format_ in (Format.TEXT, Format.MARKDOWN, Format.HTML):
            assert "parity" in text


def test_the_text_fits_a_screen(net: Path) -> None:
    text = (net.parent / "text").read_text()
    assert text.startswith("exported")
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 100
    assert "4 of 4 BatchNorms folded" in text


def test_inspect_and_fold_and_compare_close_the_circle(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(net)]) == 0
    assert "no normalisation layers" in " ".join(capsys.readouterr())
    assert run(["fold", str(net), "--dry-run"]) == 0
    assert run(["compare", str(SAMPLES / "healthy.onnx"), str(net)]) == 0
    capsys.readouterr()
    kept = tmp_path / "kept.onnx"
    program = str(SAMPLES / "healthy.pt2")
    assert run(["export", program, "-o", str(kept), "--no-fold"]) == 0
    assert run(["inspect", str(kept), "--json"]) == 0
    captured = capsys.readouterr().out
    inspected = json.loads(captured[captured.index("{\n") :])
    assert inspected["summary"]["layers"] == 4
    assert run(["fold", str(kept), "-o", str(tmp_path / "folded.onnx")]) == 0
    assert run(["compare", str(net), str(tmp_path / "folded.onnx")]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*HEALTHY], "--input or --data is missing"),
        ([HEALTHY[0], "--input", "1,8,8"], "--model"),
        ([*HEALTHY, "--input", "1,8,8", *DATA], "exclude each other"),
        ([*HEALTHY, "--input", "1,8,8", "--dynamic", "x"], "--dynamic"),
        ([*HEALTHY, "--input", "1,8,8", "--device", "cuda"], "--device"),
        ([str(SAMPLES / "healthy.onnx")], "is an ONNX model already"),
        ([str(SAMPLES / "healthy.pt2"), "--input", "1,8,8"], "defines its inputs"),
        ([str(SAMPLES / "healthy.pt2"), "--static-batch"], "defines its axes"),
        ([str(SAMPLES / "healthy.pt2"), "--output-name", "a", "--output-name", "b"], "2 names"),
        ([str(SAMPLES / "healthy-module.pt"), "--input", "1,8,8"], "--trust"),
        ([str(SAMPLES / "healthy-torchscript.pt"), "--input", "1,8,8"], "--model"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_no_file(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", *arguments, "-o", str(tmp_path / "net.onnx")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert words in captured.err
    assert listing(tmp_path) == []


def test_beyond_the_tolerance_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "net.onnx")
    tight = ["--tolerance", "1e-12", "--no-fold"]
    assert run(["export", str(SAMPLES / "healthy.pt2"), "-o", out, *tight]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("STOPPED")
    assert "BN404" in printed
    assert "nothing was written" in printed
    assert listing(tmp_path) == []
