"""The picture of the input features' scales: there where standardising gains much."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

import bncheck
from bncheck.reporting.bars import drawn
from bncheck.reporting.document import Pages
from bncheck.reporting.documents.inspect import document
from bncheck.reporting.figures import Bar, Bars
from bncheck.reporting.html import render


def _page(scales: list[float]) -> str:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(16, momentum=None)
    model = nn.Sequential(nn.Linear(len(scales), 16), norm)
    data = torch.randn(300, len(scales)) * torch.tensor(scales)
    with torch.no_grad():
        model.train()(data)
    report = bncheck.inspect(model.eval(), data=np.asarray(data))
    return render(Pages((document(report),)))


def test_scales_are_drawn_where_standardising_gains_a_factor_of_a_hundred() -> None:
    page = _page([1.0, 3000.0, 20.0])
    start = page.index('<svg class="bars"')
    svg = page[start : page.index("</svg>", start) + 6]
    root = ElementTree.fromstring(svg)
    texts = [text.text for text in root.iter("text")]
    assert {"feature 0", "feature 1", "feature 2", "as they are", "standardised"} <= {*texts}
    widths = [float(rect.get("width", "")) for rect in root.iter("rect")]
    assert widths[0] < widths[2] < widths[1]
    assert [rect.get("class") for rect in root.iter("rect")][:3] == ["marked", "marked", None]
    assert "Plotly" not in page  # the page holds what it shows


def test_nothing_is_drawn_where_there_is_nothing_to_gain() -> None:
    assert '<svg class="bars"' not in _page([1.0, 2.0, 1.5])


@pytest.mark.parametrize("values", [(1.0,), (10.0, 10.0), (1e-300, 1e300), (3.0, 1.0)])
def test_every_bar_has_a_length_within_the_picture(values: tuple[float, ...]) -> None:
    names = ("</text><script>", '"\x1b[31m', "c")
    bars = tuple(Bar(name, value) for name, value in zip(names, values, strict=False))
    root = ElementTree.fromstring(drawn(Bars('"', "", (("<&", bars),))))
    for rect in root.iter("rect"):
        assert 1 <= float(rect.get("width", "")) < 640


def test_many_features_are_drawn_by_their_extremes(tmp_path: Path) -> None:
    page = _page([10.0 ** (i / 8) for i in range(40)])
    assert page.count(">feature ") == 16
    assert ">feature 0<" in page
    assert ">feature 39<" in page
