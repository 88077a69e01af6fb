"""A report as the value of an expression: three lines, a page in a notebook, a table of pandas."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

import bncheck
from bncheck.core.report import Report
from bncheck.gate.report import CheckResult, GateReport, ModelResult
from bncheck.recording.watching import Watch
from tests.planted import SAMPLES


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    for _ in range(60):
        net(torch.randn(16, 3, 8, 8))
    return net.eval()


def _gated() -> GateReport:
    sick = bncheck.inspect(SAMPLES / "nan.pt")
    return GateReport((ModelResult("m", (CheckResult("inspect", "nan.pt", sick),)),))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("reports")
    net, data, example = _net(), torch.randn(64, 3, 8, 8), torch.randn(1, 3, 8, 8)
    out = folder / "net.onnx"
    return {
        "inspect": bncheck.inspect(SAMPLES / "stale.pt"),
        "module": bncheck.inspect(net, data),
        "drift": bncheck.drift(sorted((SAMPLES / "snapshots").glob("*.pt"))),
        "recalibrate": bncheck.recalibrate(net, data),
        "fold": bncheck.fold(net, example),
        "export": bncheck.export(net, example, out, timing=False),
        "compare": bncheck.compare(out, out),
        "landscape": bncheck.landscape(
            nn.Sequential(net, nn.Flatten()), (torch.randn(8, 3, 8, 8), torch.arange(8)),
            eta=0.1, batches=1,
        ),
        "watch": Watch(SAMPLES / "record").look(),
        "gate": _gated(),
    }  # fmt: skip


NAMES = ("inspect", "module", "drift", "recalibrate", "fold", "export", "compare", "landscape",
         "watch", "gate")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_three_lines_say_what_it_is_of_and_what_was_found(
    name: str, reports: dict[str, Any]
) -> None:
    report = reports[name]
    first, second, third = repr(report).split("\n")
    assert first.startswith(f"{type(report).__name__} of ")
    assert second.startswith("  ")
    assert second.strip()
    findings = getattr(report, "report", report).findings
    assert (third == "  nothing found") == (not findings)
    assert all(len(line) <= 100 for line in (first, second, third))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_the_page_in_a_frame_without_scripts(
    name: str, reports: dict[str, Any]
) -> None:
    shown = reports[name]._repr_html_()
    found = re.fullmatch(
        r'<iframe sandbox="allow-popups" [^<>]* srcdoc="([^"<>]*)"></iframe>', shown
    )
    assert found
    page = html.unescape(found[1])
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert len(shown) < 200_000


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_rows_of_a_table(name: str, reports: dict[str, Any]) -> None:
    report = reports[name]
    table = report.to_pandas()
    rows = report.report.rows() if name == "fold" else report.rows()
    assert len(table) == len(rows) > 0
    assert not any(isinstance(value, dict) for value in table.to_numpy().ravel())


def test_a_table_has_the_numbers_of_the_report(reports: dict[str, Any]) -> None:
    table = reports["module"].to_pandas().set_index("name")
    for layer in reports["module"].to_dict()["layers"]:
        assert table.loc[layer["name"], "running_var.max"] == layer["running_var"]["max"]
        assert table.loc[layer["name"], "w2.eval"] == layer["w2"]["eval"]
    drift = reports["drift"]
    cells = drift.to_pandas().pivot_table(
        index="layer", columns="snapshot", values="w2", sort=False
    )
    assert cells.to_numpy().tolist() == drift.to_dict()["w2"]


def test_without_pandas_the_line_that_installs_it_is_said(
    reports: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(bncheck.BncheckError, match=r"needs pandas.* install "):
        reports["inspect"].to_pandas()


def test_without_jinja2_a_notebook_shows_the_lines(
    reports: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert reports["inspect"]._repr_html_() is None


def test_every_report_is_one(reports: dict[str, Any]) -> None:
    assert {kind.command for kind in Report.__subclasses__()} == set(NAMES) - {"module"}


def test_names_of_a_file_steer_neither_terminal_nor_notebook(tmp_path: Path) -> None:
    evil = 'n"></iframe><script>x</script>\x1b]0;owned\x07\u202e\n'
    roles = {"weight": 1, "bias": 0, "running_mean": np.nan, "running_var": 2}
    path = tmp_path / "evil.safetensors"
    save_file({f"{evil}.{r}": np.full(3, v, np.float32) for r, v in roles.items()}, path)
    report = bncheck.inspect(path)
    assert all(character.isprintable() or character == "\n" for character in repr(report))
    assert repr(report).count("\n") == 2
    shown = str(report._repr_html_())
    assert shown.count("<") == 2
