"""The rows of docs/performance.md."""

from __future__ import annotations

from tests.benchmarks.table import HEAD, Peer, Row, markdown


def test_a_row_says_what_each_peer_costs_and_which_is_absent() -> None:
    peers = (Peer("torch.load", 1.5, 220.4), Peer("fvcore", None))
    row = Row("`inspect`", 0.3, peers, 45.2, wanted="0.4")
    assert row.cells() == (
        "`inspect`",
        "0.30 s",
        "torch.load 1.50 s<br>fvcore: not installed",
        "0.20<br>",
        "45 MiB (torch.load 220)",
        "0.4",
    )
    head, rule, line = markdown([row]).splitlines()
    assert head == f"| {' | '.join(HEAD)} |"
    assert {text.count("|") for text in (head, rule, line)} == {len(HEAD) + 1}
