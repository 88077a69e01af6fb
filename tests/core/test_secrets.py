"""What a URL holds that is nobody's business does not reach a log."""

from __future__ import annotations

import pytest

from bncheck.core.words import without_secrets
from bncheck.reporting.visible import visible, visible_line
from bncheck.writing.json_text import dump


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pass@host/a.pt", "https://***@host/a.pt"),
        ("https://token@host/a.pt?x=1", "https://***@host/a.pt?x=1"),
        (
            "https://b.s3.amazonaws.com/a.pt?X-Amz-Signature=abc&X-Amz-Date=2026",
            "https://b.s3.amazonaws.com/a.pt?X-Amz-Signature=***&X-Amz-Date=2026",
        ),
        ("https://h/a?sv=1&sig=a%2Fb", "https://h/a?sv=1&sig=***"),
        ("https://h/a?token=t and https://u:p@h/b", "https://h/a?token=*** and https://***@h/b"),
    ],
)
def test_secrets_are_left_out_of_every_output(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
    assert visible(url, None) == visible(shown, None)
    assert visible_line(f"{url}: cannot be read") == visible_line(f"{shown}: cannot be read")
    assert dump({"path": url}) == dump({"path": shown})


@pytest.mark.parametrize("name", ["a@b", "s3://bucket/key@2", "hf://org/name@main/x.pt", "x:y@z"])
def test_what_is_no_secret_stays(name: str) -> None:
    assert without_secrets(name) == name
