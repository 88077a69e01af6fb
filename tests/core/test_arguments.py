"""Arguments of a model: literals, text, and files of settings."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from bncheck.core.arguments import files_of_arguments, parse_arguments
from bncheck.core.errors import BncheckError

TABLE = {"depth": 20, "widths": [16, 32], "block": {"norm": "bn"}}
TEXTS = {
    ".json": '{"depth": 20, "widths": [16, 32], "block": {"norm": "bn"}}',
    ".toml": 'depth = 20\nwidths = [16, 32]\nblock = {norm = "bn"}\n',
    ".yaml": "depth: 20\nwidths: [16, 32]\nblock:\n  norm: bn\n",
    ".yml": "depth: 20\nwidths: [16, 32]\nblock:\n  norm: bn\n",
}


def test_literals_nested_literals_and_text() -> None:
    words = ["a=1", "b=1e-3", "c=bn", "d={'x': [1, (2, None)]}", "e=True", "f='true'", "g=a=b"]
    assert parse_arguments(words) == {
        "a": 1, "b": 1e-3, "c": "bn", "d": {"x": [1, (2, None)]}, "e": True, "f": "true",
        "g": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize("ending", TEXTS)
def test_a_file_is_a_configuration_object_or_all_arguments(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{ending}"
    path.write_text(TEXTS[ending])
    config = parse_arguments([f"config=@{path}"])["config"]
    assert config == TABLE
    assert config.block.norm == config["block"]["norm"] == "bn"  # type: ignore[attr-defined]
    assert not hasattr(config, "nothing")
    assert parse_arguments([f"@{path}", "depth=8"]) == {**TABLE, "depth": 8}
    assert list(files_of_arguments([f"config=@{path}", f"@{path}", "a=1"])) == [path, path]


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("widths=[1, 2", "is not a Python literal; check its brackets"),
        ("name='x", "is not a Python literal"),
        ("wide=true", "would be text; write wide=True"),
        ("depth", "is not key=value"),
        ("config=@absent.yaml", "absent.yaml: cannot be read"),
        ("config=@net.py", "net.py: is not a configuration file"),
        ("config=@bad.toml", "bad.toml: cannot be read"),
        ("config=@tagged.yaml", "tagged.yaml: cannot be read"),
        ("@list.json", "list.json: is not a table of arguments"),
    ],
)
def test_what_cannot_be_meant_is_a_line(
    word: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("a = = 1")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "tagged.yaml").write_text("!!python/object/apply:os.system ['touch ran']")
    with pytest.raises(BncheckError) as caught:
        parse_arguments([word])
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bomb.yaml", "more than 1,000,000 values"),
        ("pipe.toml", "is not a file"),
        ("zero.json", "is not a file"),
        ("large.json", "is larger than 16 MiB"),
    ],
)
def test_no_file_of_arguments_is_endless(name: str, why: str, tmp_path: Path) -> None:
    levels = [f"{x}: &{x} [{','.join([f'*{y}'] * 9)}]" for y, x in itertools.pairwise("abcdefgh")]
    (tmp_path / "bomb.yaml").write_text("\n".join(["a: &a [1]", *levels]))
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "large.json").touch()
    os.truncate(tmp_path / "large.json", 17 << 20)
    with pytest.raises(BncheckError, match=why):
        parse_arguments([f"x=@{tmp_path / name}"])
