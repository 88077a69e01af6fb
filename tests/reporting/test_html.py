"""The HTML page: what is in it, what no name can do to it, and how a real Chromium shows it."""

from __future__ import annotations

import json
import pickle
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from bncheck.cli import run
from bncheck.core.findings import Severity
from bncheck.drifting.command import DriftOptions, drift
from bncheck.drifting.report import DriftReport
from bncheck.inspecting.command import inspect
from bncheck.reporting import heat
from bncheck.reporting.document import Document, Pages, Refresh, Table
from bncheck.reporting.documents import drift as drift_document
from bncheck.reporting.documents import inspect as inspect_document
from bncheck.reporting.figures import Heatmap
from bncheck.reporting.formats import Format, Said, render, said
from bncheck.reporting.html import render as html_of
from bncheck.rules.registry import find_rule
from tests.chromium import CHROMIUM, Page, browser
from tests.drifting.planted import SNAPSHOTS
from tests.networks import SAMPLES
from tests.reporting import validity

NET = f"{SAMPLES / 'nets.py'}:DigitNet"
DATA = str(SAMPLES / "digits-train.npz")
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>&lt;\u2028\u202e{{7*7}}<!--"
)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


def said_of(report: DriftReport) -> Said:
    return said(report.to_dict, lambda: drift_document.document(report))


def series(folder: Path, name: str) -> list[Path]:
    """Two snapshots whose one layer bears the name."""
    rng = np.random.default_rng(0)
    paths = [folder / f"epoch-{number}.pkl" for number in (1, 2)]
    for path in paths:
        tensors = {
            f"{layer}.{role}": rng.uniform(1, 2, 6).astype(np.float32)
            for layer in (name, "b")
            for role in ("running_mean", "running_var")
        }
        path.write_bytes(pickle.dumps(tensors))
    return paths


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the sample snapshots, everything on it."""
    torch.set_num_threads(1)  # two that wait for each other on a busy machine take ten times longer
    path = tmp_path_factory.mktemp("page") / "drift.html"
    data = ("--model", NET, "--data", DATA, "--layers", "all", "--shape")
    files = [str(snapshot) for snapshot in SNAPSHOTS]
    assert run(["drift", *files, *data, "--format", "html", "-o", str(path)]) == 0
    return path


def test_it_is_one_file_of_at_most_6_mb_that_loads_nothing(page: Path) -> None:
    text = page.read_text()
    assert len(text.encode()) < 6_000_000
    ours = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)=(?!"data:,")', ours)
    assert "default-src 'none'" in ours


def test_the_same_input_gives_the_same_page() -> None:
    pages = {render(Format.HTML, said_of(drift(SNAPSHOTS, DriftOptions()))) for _ in range(2)}
    assert len(pages) == 1


def test_no_name_leaves_its_place(tmp_path: Path) -> None:
    view = said_of(drift(series(tmp_path, HOSTILE), DriftOptions()))
    text = render(Format.HTML, view)
    scripts = text.count("<script")
    harmless = render(Format.HTML, said_of(drift(series(tmp_path, "a"), DriftOptions())))
    assert scripts == harmless.count("<script")
    assert "<img" not in text.split('<script type="application/json"')[0]
    (data,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', text)
    assert not set(data) & {"<", ">", "&", "\u2028", "\u202e"}
    assert "alert(1)" in json.loads(data)[0]["rows"][0]
    ElementTree.fromstring(render(Format.SVG, view))


@pytest.mark.parametrize(
    ("sentence", "html", "markdown"),
    [
        (
            "run `bncheck x '<b>.pt'`; then `y|z`",
            "run <code>bncheck x &#39;&lt;b&gt;.pt&#39;</code>; then <code>y|z</code>",
            "run <code>bncheck x &#39;&#60;b&#62;&#46;pt&#39;</code>; then <code>y&#124;z</code>",
        ),
        ("`all`", "<code>all</code>", "`all`"),
        # A name with backticks of its own.
        ("run `x 'a`<i>'`", "run <code>x &#39;a`&lt;i&gt;&#39;</code>", None),
        ("run `x '`<script>`'`", "run <code>x &#39;`&lt;script&gt;`&#39;</code>", None),
        # Where it looks like the end, the wrong words are code, and still nothing but words.
        ("run `x 'a` <b>'`", "run <code>x &#39;a</code> &lt;b&gt;&#39;`", None),
        ("`` <i> a`b `c", "`` &lt;i&gt; a`b `c", "&#96;&#96; &#60;i&#62; a&#96;b &#96;c"),
        ("`\u202e\n</code>`", "<code>\\u202e\\n&lt;/code&gt;</code>", None),
    ],
)
def test_commands_between_backticks_are_code(
    sentence: str, html: str, markdown: str | None
) -> None:
    report = inspect(SAMPLES / "healthy.pt")
    finding = find_rule("BN101").finding(Severity.ERROR, "bn1", sentence, sentence)
    view = inspect_document.said([replace(report, findings=(finding,))])
    page = render(Format.HTML, view)
    assert f"<p><strong>Fix:</strong> {html}</p>" in page
    assert f"<p><code>bn1</code>: {html}</p>" in page
    shown = render(Format.MARKDOWN, view)
    assert markdown is None or f"|{markdown}|{markdown}|" in shown
    validity.check("markdown", shown)


def test_documents_without_figures_carry_no_plotly() -> None:
    view = inspect_document.said([inspect(SAMPLES / "one-layer-reset.pt")])
    text = render(Format.HTML, view)
    assert len(text) < 50_000
    assert "What BN101 means" in text
    assert "<script" not in text


def test_a_missing_library_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    out = tmp_path / "x.html"
    code = run(["inspect", str(SAMPLES / "healthy.pt"), "--format", "html", "-o", str(out)])
    assert code == 2
    assert "needs jinja2" in capsys.readouterr().err
    assert not out.exists()


def test_svg_is_well_formed_and_says_every_value() -> None:
    tree = ElementTree.fromstring(render(Format.SVG, said_of(drift(SNAPSHOTS, DriftOptions()))))
    titles = [title.text for title in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 4 * 6
    assert "bn4, epoch 1: W2 0.917" in titles


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with browser() as tab:
        yield tab


def hovered(tab: Page, row: int, column: int) -> str:
    """Point at a cell of the first heatmap; what is shown beside the mouse."""
    box = tab.evaluate(
        "(() => { const plot = document.getElementById('plot-0'), l = plot._fullLayout;"
        "plot.scrollIntoView(); const r = plot.getBoundingClientRect();"
        f"return [r.left + l._size.l + l.xaxis.d2p({column}),"
        f" r.top + l._size.t + l.yaxis.d2p({row})]; }})()"
    )
    tab.point_at(*box)
    tab.wait("document.querySelector('#plot-0 .hoverlayer .hovertext')", 5)
    return str(tab.evaluate("document.querySelector('#plot-0 .hoverlayer').textContent"))


@needs_chromium
def test_it_loads_without_errors_and_hovering_shows_values(page: Path, chromium: Page) -> None:
    chromium.look(1200, 900)
    chromium.open(page)
    chromium.wait("document.querySelectorAll('.plot .main-svg').length >= 6")
    shown = hovered(chromium, 10, 0)
    assert "bn4" in shown
    assert "epoch 1" in shown
    assert re.search(r"W2 0\.8\d", shown)
    assert chromium.problems == []


@needs_chromium
def test_it_fits_a_phone_and_follows_dark_mode(page: Path, chromium: Page) -> None:
    colours = set()
    for dark in (False, True):
        chromium.look(390, 800, dark)
        chromium.open(page)
        chromium.wait("document.querySelector('#plot-0 .xtick text')")
        assert chromium.evaluate("document.documentElement.scrollWidth") == 390
        letters = "getComputedStyle(document.querySelector('#plot-0 .xtick text')).fill"
        ground = "getComputedStyle(document.body).backgroundColor"
        colours.add((chromium.evaluate(letters), chromium.evaluate(ground)))
    assert len({ink for ink, _ in colours}) == len({ground for _, ground in colours}) == 2
    assert chromium.problems == []


@needs_chromium
def test_everything_is_reached_with_the_keyboard(page: Path, chromium: Page) -> None:
    chromium.look(1200, 900)
    chromium.open(page)
    chromium.wait("document.querySelector('#plot-4 .main-svg')")
    reached = []
    for _ in range(12):
        chromium.press("Tab")
        reached.append(chromium.evaluate("document.activeElement.tagName"))
        if reached[-1] == "SELECT":
            before = chromium.evaluate("document.querySelector('#plot-4').data[2].y[0]")
            chromium.press("ArrowDown")  # bn4, which sees what fc1 gives: the same figures
            chromium.press("ArrowDown")
            chromium.wait(f"document.querySelector('#plot-4').data[2].y[0] !== {before}", 5)
    assert {"SELECT", "SUMMARY"} <= set(reached)
    assert chromium.problems == []


@needs_chromium
def test_a_hostile_name_runs_nothing(tmp_path: Path, chromium: Page) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(render(Format.HTML, said_of(drift(series(tmp_path, HOSTILE), DriftOptions()))))
    chromium.look(1200, 900)
    chromium.open(path)
    chromium.wait("document.querySelector('#plot-0 .main-svg')")
    shown = hovered(chromium, 0, 0)
    assert "alert(1)" in shown  # as text
    assert chromium.evaluate("document.querySelectorAll('img').length") == 0
    assert chromium.problems == []


def test_a_page_that_is_written_again_and_again_is_small() -> None:
    """A page with plotly is 4.8 MB, each time; the last one, which stays, has it."""
    values = tuple(tuple(0.01 * row * column for column in range(60)) for row in range(53))
    names = tuple(f"layer{row}</script>" for row in range(53))
    figure = Heatmap(
        "How far", "W2.", names, tuple(f"step {step}" for step in range(60)), values, "W2",
        heat.LEVELS[0], heat.LEVELS[-1], "the batch",
    )  # fmt: skip
    document = Document("watch", "run", "no fault found", None, figures=(figure,))
    kept, left = (
        html_of(Pages((document,), refresh=refresh)) for refresh in (Refresh(1, 10**9), None)
    )
    assert len(kept) < 700_000 < 4_000_000 < len(left)
    assert kept.count("<rect") == 53 * 60 + len(heat.COLOURS)
    assert "layer7&lt;/script&gt;, step 59: W2 4.13" in kept
    assert 'id="plot-0"' not in kept
    wide = replace(figure, columns=figure.columns * 4, values=tuple(row * 4 for row in values))
    many = replace(document, figures=(wide, replace(wide, rows=names * 2, values=wide.values * 2)))
    assert html_of(Pages((many,), refresh=Refresh(1, 10**9))).count('class="plot"') == 1


@needs_chromium
def test_a_page_that_watch_writes_looks_at_itself_again(tmp_path: Path, chromium: Page) -> None:
    """From a file, and what was scrolled to and opened stays; a page left behind stops."""

    def write(word: str, until: float) -> None:
        tall = Table("Layers", ("layer",), tuple((f"{word} {row}",) for row in range(300)))
        document = Document("watch", "run", word, None, tables=(tall,))
        refresh = Refresh(1, int(until))
        (tmp_path / "page.html").write_text(html_of(Pages((document,), refresh=refresh)))

    write("early", time.time() + 60)
    chromium.look(800, 600)
    chromium.open(tmp_path / "page.html")
    chromium.evaluate("document.querySelector('details').open = true; window.scrollTo(0, 700)")
    write("later", time.time() - 60)
    chromium.wait("document.body?.innerText.includes('later')")
    chromium.wait("window.scrollY === 700 && document.querySelector('details').open")
    write("newest", time.time() + 60)
    time.sleep(1.5)
    assert "newest" not in chromium.evaluate("document.body.innerText")
    assert chromium.problems == []
