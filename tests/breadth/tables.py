"""The tables of docs/breadth.md."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def table(rows: list[Row]) -> str:
    return "\n".join(str(row) for row in rows)
