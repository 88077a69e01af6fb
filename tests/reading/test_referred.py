"""What a checkpoint refers to is opened in one place, which lets nothing lead out of the folder."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.referred import referred
from tests.zoo.registry import BUILDERS

PACKAGE = Path(bncheck.__file__).parent


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../x", "..", ".", "", "a\\..\\x", "a\0b", "\ud800", "absent",
     "sub", "link", "loop", "sub/link", "dangling", "device", "pipe", "x" * 5000],
)  # fmt: skip
def test_a_path_that_leads_out_or_is_not_a_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("secret")
    (tmp_path / "x").write_text("secret")
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to("../private")
    (folder / "sub" / "link").symlink_to(tmp_path / "private")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "device").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    with pytest.raises(BncheckError):
        referred(folder, name)


def test_a_folder_inside_that_is_a_link_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "x").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "sub").symlink_to("../private")
    with pytest.raises(BncheckError, match="links out of its folder"):
        referred(tmp_path / "model", "sub/x")


def test_a_sibling_whose_name_begins_alike_is_outside(tmp_path: Path) -> None:
    for folder in ("model", "model-private"):
        (tmp_path / folder).mkdir()
    (tmp_path / "model-private" / "x").touch()
    (tmp_path / "model" / "x").symlink_to("../model-private/x")
    with pytest.raises(BncheckError, match="links out of its folder"):
        referred(tmp_path / "model", "x")


def test_hard_links_to_raw_numbers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "private").touch()
    (tmp_path / "model").mkdir()
    os.link(tmp_path / "private", tmp_path / "model" / "x")
    assert referred(tmp_path / "model", "x") == tmp_path / "model" / "x"
    with pytest.raises(BncheckError, match="the hard link 'x'"):
        referred(tmp_path / "model", "x", raw=True)


def test_it_is_found_through_other_ways_into_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "sub" / "x").touch()
    (tmp_path / "way").symlink_to("model")
    monkeypatch.chdir(tmp_path / "model")
    for folder in (Path(), Path("sub/.."), tmp_path / "way"):
        assert referred(folder, "./sub//x").samefile(tmp_path / "model" / "sub" / "x")


@pytest.mark.parametrize("name", ["hf-sharded-safetensors", "hf-sharded-bin", "distributed"])
def test_a_file_that_becomes_a_link_out_before_it_is_read_is_refused(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    checkpoint = open_checkpoint(BUILDERS[name](tmp_path / "model").path)
    for path in list(checkpoint.path.rglob("*0*")):
        os.replace(path, tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    with pytest.raises(BncheckError, match="links out of its folder"):
        [checkpoint.tensors[tensor] for tensor in checkpoint.tensors]


def test_readers_open_what_the_user_named_or_come_through_this_door() -> None:
    """A path that is put together is one that a file has named."""
    places = [*PACKAGE.glob("reading/*.py"), *PACKAGE.glob("folding/**/*.py")]
    opened = 0
    for file in places:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "Source.open", "SourceFile", "open", "safe_open", "onnx.load",
            ):  # fmt: skip
                if any(ast.unparse(argument) == "'wb'" for argument in node.args[1:]):
                    continue  # what is downloaded goes to a temporary file
                what = node.args[0]
                named = isinstance(what, ast.Name) and what.id == "path"
                safe = ast.unparse(what) == "str(path)" or (
                    isinstance(what, ast.Call) and ast.unparse(what.func) == "referred"
                )
                assert named or safe, f"{file}: {ast.unparse(node)}"
                opened += 1
    assert opened >= 8
