"""The errors of an export and a comparison as a picture on their page."""

from __future__ import annotations

import math

from bncheck.folding.result import Parity
from bncheck.reporting.document import Pages
from bncheck.reporting.documents.compare import document
from bncheck.reporting.documents.parity import errors
from bncheck.reporting.html import render
from bncheck.shipping.proof import LevelParity, Proof
from bncheck.shipping.report import CompareReport


def _level(level: str, outputs: dict[str, float]) -> LevelParity:
    return LevelParity(level, Parity(max(outputs.values()), 0.0, 1e-5, (1, 3)), outputs)


def test_a_bar_for_each_output_and_way_to_run_it_beside_the_tolerance() -> None:
    levels = (_level("torch", {"y": 3e-7, "z": 0.0}), _level("all", {"y": 2e-3}))
    refused = LevelParity("extended", None, refused="no kernel")
    (figure,) = errors(Proof((*levels, refused), 1e-5))
    drawn = [(title, [(bar.name, bar.value) for bar in bars]) for title, bars in figure.groups]
    assert drawn == [
        ("run by torch", [("y", 3e-7), ("tolerance", 1e-5)]),
        ("run by onnxruntime all", [("y", 2e-3), ("tolerance", 1e-5)]),
    ]


def test_what_is_exact_or_infinite_is_not_drawn() -> None:
    assert not list(errors(Proof((_level("torch", {"y": 0.0}),), 1e-5)))
    assert not list(errors(Proof((_level("torch", {"y": math.inf}),), 1e-5)))
    assert not list(errors(Proof((), 1e-5)))


def test_the_page_holds_the_picture() -> None:
    report = CompareReport("a.pt2", "b.onnx", Proof((_level("all", {"logits": 3e-7}),), 1e-5))
    page = render(Pages((document(report),)))
    assert "How far each output is from the original" in page
    assert "logits" in page[page.index("<svg") : page.index("</svg>")]
