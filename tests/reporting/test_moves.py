"""Where normalisations went: boxes and arrows on the page of a fold."""

from __future__ import annotations

from xml.etree import ElementTree

from bncheck.folding.planner.plan import Decision, Status
from bncheck.folding.result import FoldReport
from bncheck.reporting.document import Detail, Pages
from bncheck.reporting.documents.fold import decisions_table, document, moves
from bncheck.reporting.html import render
from bncheck.reporting.moves import drawn

DECISIONS = (
    Decision("first", "batch_norm", Status.FOLDED, ("conv",)),
    Decision("second", "batch_norm", Status.MERGED, ("conv",)),
    Decision("past", "batch_norm", Status.FOLDED, ("a<b>", "\x1b[31mfc"), ("mean",)),
    Decision("left", "batch_norm", Status.KEPT, reason="sigmoid & more lie between"),
    Decision("same", "batch_norm", Status.FOLDED),
)


def test_norms_of_one_call_are_one_line_and_names_are_text() -> None:
    (figure,) = moves(FoldReport(DECISIONS))
    root = ElementTree.fromstring(drawn(figure))
    lines = [[(part.get("class"), "".join(part.itertext())) for part in line] for line in root]
    arrow = ("into", "went into")
    assert lines[0] == [("gone", "first"), ("gone", "second"), arrow, ("target", "conv")]
    assert lines[1][1:3] == [("past", "through"), ("through", "mean")]
    assert lines[1][4] == ("target", "a<b>")
    assert "\x1b" not in lines[1][5][1]
    assert lines[2] == [("stays", "left"), ("why", "stays: sigmoid & more lie between")]
    assert lines[3] == [("gone", "same"), ("why", "gone: it changed nothing")]


def test_a_module_of_which_several_calls_took_a_part_is_named_once() -> None:
    decision = Decision("norm", "batch_norm", Status.FOLDED, ("c", "c", "fc"))
    report = FoldReport((decision,))
    (figure,) = moves(report)
    assert figure.moves[0].into == ("c", "fc")
    assert decisions_table(report, Detail.ALWAYS).rows[0][1] == "c, fc"
    assert report.to_dict()["batchnorms"][0]["into"] == "c, c, fc"  # type: ignore[index]


def test_many_are_folded_away_and_none_draw_nothing() -> None:
    many = tuple(Decision(f"bn{i}", "batch_norm", Status.FOLDED, (f"conv{i}",)) for i in range(200))
    page = render(Pages((document(FoldReport(many), "net.pt"),)))
    assert "<summary>All 200</summary>" in page
    assert page.count('class="into"') == 200
    few = render(Pages((document(FoldReport(many[:3]), "net.pt"),)))
    assert "<summary>All 3</summary>" not in few
    assert few.count('class="into"') == 3
    assert 'class="moves"' not in render(Pages((document(FoldReport(()), "net.pt"),)))
