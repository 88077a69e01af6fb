"""Earlier reports for `gate --against`, from whoever wrote them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bncheck.core.errors import BncheckError
from bncheck.gate.regression import read_previous


def _gate(*reports: object, name: object = "net") -> str:
    return json.dumps(
        {"schema": "bncheck.gate/1", "models": [{"name": name, "reports": list(reports)}]}
    )


def _layers(value: object) -> dict[str, object]:
    return {"schema": "bncheck.inspect/1", "layers": value}


def _fold(summary: object) -> dict[str, object]:
    return {"schema": "bncheck.fold/1", "summary": summary}


HOSTILE = {
    "empty": "",
    "deep": "[" * 100_000,
    "integer": "1" * 5000,
    "other-schema": '{"schema": [1]}',
    "no-models": '{"schema": "bncheck.gate/1"}',
    "models": '{"schema": "bncheck.gate/1", "models": {"a": 1}}',
    "name": _gate(name=[]),
    "report": _gate("abc"),
    "report-of-nothing": _gate({}),
    "report-of-others": _gate({"schema": "pylint/1"}),
    "layers": _gate(_layers({"a": 1})),
    "w2": _gate(_layers([{"name": "bn", "w2": [1]}])),
    "w2-beyond-floats": _gate(_layers([{"name": "bn", "w2": {"eval": 10**400}}])),
    "layer-name": _gate(_layers([{"name": {}, "w2": {"eval": 1}}])),
    "summary": _gate(_fold(3)),
    "folded": _gate(_fold({"folded": "x"})),
    "many": '{"schema": "bncheck.gate/1", "x": [' + "{}," * 1_200_000 + "{}]}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_a_report_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(HOSTILE[name])
    with pytest.raises(BncheckError, match=r"report\.json: (is not a report|holds JSON of more)"):
        read_previous(path, 0.05)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "absent"):
        with pytest.raises(BncheckError, match=r"is not a file|cannot be read"):
            read_previous(path, 0.05)
