# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,no-any-return,union-attr"
"""A detector is folded by parts: what is one graph is folded, the rest stays and is named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import bncheck
from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.folding.program.parts import PartsResult
from tests.folding.detector import Detector, unit
from tests.folding.patterns.building import randomised
from tests.planted import SAMPLES

torch.set_num_threads(1)

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def detector() -> nn.Module:
    """With trained numbers in every norm, the frozen one too."""
    torch.manual_seed(1)
    model = randomised(Detector())
    with torch.no_grad():
        for name, value in model.backbone.last.named_buffers():
            value.uniform_(0.5, 1.5) if "var" in name else value.normal_(0.5, 1)
    return model.eval()


@pytest.fixture(scope="module")
def folded() -> PartsResult:
    result = bncheck.fold(detector(), IMAGES)
    assert isinstance(result, PartsResult)
    return result


def _largest_difference(one: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        pairs = list(zip(one(IMAGES), other(IMAGES), strict=True))
    assert all(a[key].shape == b[key].shape for a, b in pairs for key in a)
    return max(float((a[key] - b[key]).abs().max()) for a, b in pairs for key in a)


def test_every_norm_goes_and_the_model_stays_as_it_was(folded: PartsResult) -> None:
    assert {d.name: d.into for d in folded.batchnorms} == {
        "backbone.stem.1": ("backbone.stem.0",),
        "backbone.second.1": ("backbone.second.0",),
        "backbone.last.1": ("backbone.last.0",),
        "proposals.head.shared.1": ("proposals.head.shared.0",),
        "proposals.head.shared.1 (2)": ("proposals.head.shared.0",),
        "classes.1": ("classes.0",),
    }
    assert _largest_difference(detector(), folded.module()) < 1e-5
    norms = [m for m in folded.module().modules() if "BatchNorm" in type(m).__name__]
    assert not norms
    assert folded.parity is not None
    assert folded.parity.holds
    assert folded.parity.regions is not None
    assert folded.parity.regions.count == 6


def test_the_report_says_which_parts_are_one_graph(folded: PartsResult) -> None:
    parts = {part.name: part for part in folded.report.parts}
    assert [name for name, part in parts.items() if part.folded] == [
        "backbone", "proposals", "classes",
    ]  # fmt: skip
    assert parts["classes"].calls == 2
    assert "branches on the values of a tensor at detector.py:" in folded.report.whole
    with pytest.raises(bncheck.BncheckError, match=r"by parts, which are not one program"):
        _ = folded.program


def test_nothing_of_torch_reaches_the_streams(capfd: pytest.CaptureFixture[str]) -> None:
    model = detector()
    before = copy.deepcopy(model.state_dict())
    bncheck.fold(model, IMAGES, parts=["backbone"])
    bncheck.fold(model, IMAGES)
    with pytest.raises(bncheck.BncheckError, match=r"branches on the values"):
        bncheck.fold(_Gate().eval(), torch.randn(2, 3, 8, 8))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


class _Gate(nn.Module):
    """Branches between a convolution and its BatchNorm: no part can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) if y.sum() > 0 else y


class _Loose(nn.Module):
    """A part, and a BatchNorm beside it in a model that branches."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.gate, self.unused = unit(3, 4), _Gate(), unit(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        return self.part(x[:, :3]) if x.max() > 0 else self.unused(x)


def test_what_lies_outside_is_kept_with_its_reason() -> None:
    torch.manual_seed(2)
    result = bncheck.fold(randomised(_Loose()), torch.randn(2, 3, 9, 9).abs())
    reasons = {d.name: d.reason for d in result.batchnorms}
    assert reasons["part.1"] == ""
    assert "gate, which branches on the values of a tensor" in reasons["gate.norm"]
    assert "unused, which is not called by the example" in reasons["unused.1"]
    assert [d.name for d in result.report.kept] == ["gate.norm", "unused.1"]


class _Shared(nn.Module):
    """Two norms behind one convolution, whose calls need weights of their own, and one more."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.conv = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.a, self.b, self.bn = (nn.BatchNorm2d(4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.shared(torch.relu(self.a(self.shared(x)))))
        return self.bn(self.conv(torch.relu(y)))


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = _Shared()

    def forward(self, x: Tensor) -> Tensor:
        y = self.part(x)
        return y + 1 if y.sum() > 0 else y


@pytest.mark.parametrize("names", [[], ["part"]])
def test_what_a_part_cannot_hold_stays_and_the_rest_of_it_is_folded(names: list[str]) -> None:
    """Split, it had nothing to fold: its convolutions and norms are called one by one."""
    torch.manual_seed(3)
    result = bncheck.fold(randomised(_Branches()), torch.randn(2, 4, 8, 8), parts=names)
    assert {d.name: d.into for d in result.batchnorms} == {
        "part.a": (), "part.b": (), "part.bn": ("part.conv",)
    }  # fmt: skip
    reasons = {d.name: d.reason for d in result.batchnorms}
    assert "called more than once" in reasons["part.a"]


def test_what_modules_cannot_hold_is_not_exported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part is planned twice, for some of its norms have to stay."""
    export, seen = torch.export.export, list[nn.Module]()

    def counting(model: nn.Module, *args: Any, **options: Any) -> torch.export.ExportedProgram:
        seen.append(model)
        return export(model, *args, **options)

    monkeypatch.setattr(torch.export, "export", counting)
    bncheck.fold(randomised(_Branches()), torch.randn(2, 4, 8, 8))
    assert [type(model) for model in seen].count(_Shared) == 1


def test_parts_by_hand_and_norms_that_are_kept() -> None:
    result = bncheck.fold(detector(), IMAGES, parts=["backbone"], keep=["*.stem.1"])
    assert {d.name: d.status for d in result.batchnorms} == {
        "backbone.stem.1": "kept", "backbone.second.1": "folded", "backbone.last.1": "folded",
        "proposals.head.shared.1": "kept", "classes.1": "kept",
    }  # fmt: skip
    assert _largest_difference(detector(), result.module()) < 1e-5
    with pytest.raises(bncheck.BncheckError, match=r"'neck' is not a submodule.*backbone, prop"):
        bncheck.fold(detector(), IMAGES, parts=["neck"])
    head = bncheck.fold(detector(), IMAGES, parts=["proposals.head"])
    assert len([norm for norm in head.batchnorms if norm.status == "folded"]) == 2


def test_in_training_mode_nothing_is_changed() -> None:
    model = detector().train()
    before = copy.deepcopy(model.state_dict())
    result = bncheck.fold(model, IMAGES)
    kept = [d.reason for d in result.report.kept]
    assert any("training mode" in reason for reason in kept)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(detector().state_dict(), tmp_path / "net.pt")
    return tmp_path


MODEL = ["--model", "tests.folding.detector:Detector", "--input", "3,32,32"]


def test_the_command_writes_what_load_folded_takes(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = saved / "folded.safetensors"
    assert run(["fold", str(saved / "net.pt"), *MODEL, "-o", str(out)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "folded by parts: backbone, proposals and classes" in text
    assert "5 of 5 BatchNorms (6 of 6 calls) folded" in text
    loaded = bncheck.load_folded(Detector().eval(), out)
    assert _largest_difference(detector(), loaded) < 1e-5

    assert run(["fold", str(saved / "net.pt"), *MODEL, "-o", str(saved / "net.pt2")]) == 2
    assert "by parts, which are not one program; write a .safetensors" in capsys.readouterr().err
    assert not (saved / "net.pt2").exists()


def test_a_part_is_folded_and_exported_by_name(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fold", str(saved / "net.pt"), *MODEL, "--part", "backbone", "--dry-run", "--json"]
    assert run(words) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [part["name"] for part in told["parts"]] == ["backbone"]
    assert told["summary"] == {"total": 5, "folded": 3, "kept": 2}

    out = saved / "backbone.onnx"
    words = ["export", str(saved / "net.pt"), *MODEL, "--part", "backbone", "-o", str(out)]
    assert run(words) == 0
    graph = onnx.load(out).graph
    assert [output.name for output in graph.output] == ["fine", "coarse"]
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize(
    ("name", "says"),
    [("healthy.pt", r"is not a \.safetensors file"), ("nowhere.safetensors", "does not exist")],
)
def test_another_file_is_not_loaded_as_folded(name: str, says: str) -> None:
    with pytest.raises(BncheckError, match=says):
        bncheck.load_folded(nn.Linear(2, 2), SAMPLES / name)


@pytest.mark.parametrize(("behind", "tolerance"), [(False, 1e-5), (True, 5e-3)])
def test_the_tolerance_is_that_of_the_parts_and_of_what_follows(
    behind: bool, tolerance: float
) -> None:
    class Mixed(nn.Module):
        """A float16 layer before all parts, or one that reads what they make."""

        def __init__(self) -> None:
            super().__init__()
            self.detector, self.narrow = detector(), nn.Linear(32, 32).half()

        def forward(self, images: Tensor) -> Any:
            if not behind:
                return self.detector(images + 0 * self.narrow(images.half()).float())
            found = self.detector(images)
            kept = images + 0 * sum(each.sum() for image in found for each in image.values())
            return self.narrow(kept.half())

    result = bncheck.fold(Mixed().eval(), IMAGES)
    assert isinstance(result, PartsResult)
    assert result.parity is not None
    assert result.parity.tolerance == tolerance


@pytest.mark.parametrize(
    "said",
    ["[" * 100_000, "5", '{"identities": [5]}', '{"bare": [null]}', '{"added": 5}',
     '{"original": [1]}', '{"identities": ["zzz"]}', '{"original": {"conv1.weight": null}}'],
    ids=lambda said: said[:24],
)  # fmt: skip
def test_what_a_stranger_says_of_a_fold_is_refused(
    said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`compare` reads it, so it may come from anywhere."""
    manifest = {"schema": "bncheck.folded-state/1", "identities": [], "added": [], "original": {}}
    if said[0] == "{":
        said = json.dumps({**manifest, **json.loads(said)})
    path = tmp_path / "folded.safetensors"
    save_file({"fc2.weight": torch.ones(10, 32)}, path, {"format": "pt", "bncheck.fold": said})
    model = ["--model", f"{SAMPLES / 'nets.py'}:DigitNet", "--input", "1,8,8"]
    assert run(["compare", str(SAMPLES / "healthy.pt"), str(path), *model]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "bug in bncheck" not in line
