"""Inputs without a batch, such as one image or a temperature, beside others or alone."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.subject.inputs import InputShape, parse_input


class OneImage(nn.Module):
    """Of [3, 8, 8], as it is without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x)[None])[0].mean((1, 2))
        return y


class Scaled(nn.Module):
    """Samples beside a matrix and a number for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(5, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor, table: Tensor, temperature: Tensor) -> Tensor:
        y: Tensor = self.bn(self.fc(x @ table)) * temperature
        return y


CASES = {
    "OneImage": ["--input", "[3,8,8]"],
    "Scaled": ["--input", "6", "--input", "[6,5]", "--input", "temperature=[]"],
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_folded_and_exported_at_its_own_sizes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model: nn.Module = globals()[name]()
    source, file = str(tmp_path / "net.pt"), str(tmp_path / "net.onnx")
    torch.save(model.state_dict(), source)
    given = ["--model", f"{__name__}:{name}"]
    for command, output in (("fold", "net.pt2"), ("fold", "net.safetensors"), ("export", file)):
        target = ["-o", str(tmp_path / output), *(["--force"] if command == "export" else [])]
        assert run([command, source, *given, *CASES[name], *target]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "1 of 1 BatchNorm folded" in text
        assert ("on inputs without a batch" in text) == (name == "OneImage")
    shapes = [port.type.tensor_type.shape.dim for port in onnx.load(file).graph.input]
    found = [[dim.dim_param or dim.dim_value for dim in shape] for shape in shapes]
    assert found == ([[3, 8, 8]] if name == "OneImage" else [["batch", 6], [6, 5], []])
    for inputs in ([], CASES[name]):  # the file says the sizes, too
        assert run(["compare", source, file, *given, *inputs]) == 0


def test_brackets_hold_all_sizes() -> None:
    assert parse_input("x=[3,8,8]:int64") == InputShape("x", (3, 8, 8), "int64", exact=True)
    assert parse_input("[]").whole(2) == ()
    assert parse_input("[3x8]").whole(2) == (3, 8)
    for word in ("", "x=", "[3,N]", "[3,8", "3]"):
        with pytest.raises(BncheckError, match="is not a shape"):
            parse_input(word)
