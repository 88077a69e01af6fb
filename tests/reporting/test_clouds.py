"""What a page draws of a measurement: channels about the diagonal, columns of layers."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import bncheck
from bncheck.core.findings import Severity
from bncheck.reporting.clouds import drawn_clouds, drawn_columns
from bncheck.reporting.document import Document, Pages
from bncheck.reporting.documents.inspect import document
from bncheck.reporting.figures import Clouds, Columns
from bncheck.reporting.html import render


def figures(*, variance_power: float = 1.0, channels: int = 16) -> tuple[Columns, Clouds]:
    """Of a layer whose running variances are a power of the true ones."""
    torch.manual_seed(0)
    scale = torch.logspace(-1, 1, channels)
    x = torch.randn(512, channels) * scale + scale
    norm = nn.BatchNorm1d(channels)
    norm.running_mean = x.mean(dim=0)
    norm.running_var = x.var(dim=0) ** variance_power
    report = bncheck.inspect(nn.Sequential(norm), [x])
    columns, clouds = document(report).figures[:2]
    assert isinstance(columns, Columns)
    assert isinstance(clouds, Clouds)
    return columns, clouds


@pytest.mark.parametrize("power", [1.0, 0.5, -1.0])
def test_the_slope_shows_in_which_form_variances_are_stored(power: float) -> None:
    _, clouds = figures(variance_power=power)
    mean, variance = clouds.layers[0].clouds
    assert mean.slope == pytest.approx(1.0, abs=1e-3)
    assert variance.slope == pytest.approx(power, abs=1e-2)
    assert f"slope {power:.2f}" in drawn_clouds(clouds.layers[0])


def test_sound_layers_are_closed_and_sick_ones_open() -> None:
    assert [layer.marked for layer in figures()[1].layers] == [False]
    assert [layer.marked for layer in figures(variance_power=0.5)[1].layers] == [True]


def test_points_lie_on_the_diagonal_where_all_is_well() -> None:
    tree = ElementTree.fromstring(drawn_clouds(figures()[1].layers[0]))
    lines = [e for e in tree.iter() if e.get("class") == "even"]
    points = [e for e in tree.iter() if e.tag.endswith("circle")]
    assert len(lines) == 2
    assert len(points) == 32
    for point in points:
        x, y = float(point.get("cx", "")), float(point.get("cy", ""))
        line = lines[0] if x < float(lines[1].get("x1", "")) else lines[1]
        start, bottom = float(line.get("x1", "")), float(line.get("y1", ""))
        assert x - start == pytest.approx(bottom - y, abs=1.5)


def test_columns_take_the_colour_of_the_line_they_reach() -> None:
    columns = replace(figures()[0], names=("a", "b", "<c>"), values=(0.1, 0.3, 900.0))
    tree = ElementTree.fromstring(drawn_columns(columns))
    bars = [e for e in tree.iter() if e.tag.endswith("rect")]
    assert [bar.get("class") for bar in bars] == ["good", "warning", "error"]
    heights = [float(bar.get("height", "")) for bar in bars]
    assert heights == sorted(heights)
    limits = [float(e.get("y1", "")) for e in tree.iter() if e.tag.endswith("line")]
    tops = [float(bar.get("y", "")) for bar in bars]
    assert tops[0] > limits[0] > tops[1] > limits[1] > tops[2]


def test_a_page_of_200_wide_layers_stays_small() -> None:
    columns, clouds = figures(channels=2000)
    layer = clouds.layers[0]
    assert len(layer.clouds[0].seen) <= 400
    many = replace(columns, names=("long.name." * 9,) * 200, values=(0.1,) * 200)
    page = render(Pages((Document("inspect", "net.pt", "healthy", None, figures=(many, clouds)),)))
    assert len(page) < 300_000
    assert "plotly" not in page.lower()


def test_broken_files_come_first_and_healthy_ones_are_folded() -> None:
    healthy = Document("inspect", "fine.pt", "healthy", None)
    broken = Document("inspect", "sick.pt", "broken", Severity.ERROR)
    page = render(Pages((healthy, broken)))
    articles = re.findall(r"<article.*?</article>", page, re.S)
    assert ["sick.pt" in articles[0], "fine.pt" in articles[1]] == [True, True]
    assert ["The whole report" in article for article in articles] == [False, True]
    assert "The whole report" not in render(Pages((healthy,)))
