"""`bncheck fold` on other people's networks, held against the originals outside of bncheck."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import bncheck
from bncheck.cli import run
from tests.crepe import Crepe
from tests.networks import REAL
from tests.resnet import ResNet

torch.set_num_threads(1)

CIFAR = (
    "--data", str(REAL / "data" / "cifar10_train2000.npz"), "--scale", "255",
    "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225",
)  # fmt: skip
TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")


def _images(count: int) -> torch.Tensor:
    x = np.load(REAL / "data" / "cifar10_train2000.npz")["x"][:count] / 255
    normal = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.from_numpy(normal).permute(0, 3, 1, 2).float()


def _loaded(model: nn.Module, path: Path, prefix: str = "") -> nn.Module:
    tensors = bncheck.open_checkpoint(path).tensors
    state = {n.removeprefix(prefix): torch.from_numpy(tensors[n].copy()) for n in tensors}
    model.load_state_dict(state, strict=False)
    return model.eval()


@pytest.mark.parametrize(("depth", "norms"), [(20, 19), (44, 43)])
@pytest.mark.parametrize("ending", ["pt2", "safetensors"])
def test_a_real_resnet_without_batchnorm_sees_the_same(
    depth: int, norms: int, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = REAL / "checkpoints" / f"resnet{depth}-cifar10.th"
    out = tmp_path / f"net.{ending}"
    model = ["--model", f"{TESTS / 'resnet.py'}:ResNet", "--model-arg", f"depth={depth}"]
    assert run(["fold", str(source), *model, *CIFAR, "-o", str(out)]) == 0
    assert f"{norms} of {norms} BatchNorms folded" in capsys.readouterr().out
    original = _loaded(ResNet(depth), source, "module.")
    folded = (
        torch.export.load(out).module()
        if ending == "pt2"
        else bncheck.load_folded(ResNet(depth).eval(), out)
    )
    with torch.no_grad():
        for batch in (1, 7):
            before, after = original(_images(batch)), folded(_images(batch))
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
            assert torch.equal(before.argmax(1), after.argmax(1))
    if ending == "safetensors":
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        with pytest.raises(bncheck.BncheckError, match="another model"):
            bncheck.load_folded(ResNet(64 - depth), out)


def test_crepe_still_tells_its_authors_pitches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = REAL / "data" / "crepe_frames.npz"
    source, out = REAL / "checkpoints" / "crepe-tiny.pth", tmp_path / "crepe.pt2"
    model = ["--model", f"{TESTS / 'crepe.py'}:{Crepe.__name__}", "--data", str(frames)]
    assert run(["fold", str(source), *model, "-o", str(out)]) == 0
    # ReLU before and zero padding after each but the last, which goes into the classifier.
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 of 6 BatchNorms folded" in shown
    assert "5 BatchNorms: conv1_BN, conv2_BN, conv3_BN and 2 more" in shown
    data = np.load(frames)
    module = torch.export.load(out).module()
    for batch in (1, 7, 64):
        given = module(torch.from_numpy(data["x"][:batch])).numpy()
        assert np.abs(given - data["y"][:batch]).max() < 1e-5


def test_a_real_onnx_model_with_transposed_convolutions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.onnx"
    assert run(["fold", str(REAL / "onnx" / "gtcrn-stream.onnx"), "-o", str(out)]) == 0
    captured = capsys.readouterr()
    assert "11 of 11 BatchNorms folded" in captured.out
    assert captured.err == ""
    onnx.checker.check_model(str(out), full_check=True)
    runtime = pytest.importorskip("onnxruntime")
    old, new = (
        runtime.InferenceSession(str(p), providers=["CPUExecutionProvider"])
        for p in (REAL / "onnx" / "gtcrn-stream.onnx", out)
    )
    rng = np.random.default_rng(0)
    inputs = {i.name: rng.normal(0, 0.1, i.shape).astype(np.float32) for i in old.get_inputs()}
    assert [i.name for i in new.get_inputs()] == list(inputs)
    for before, after in zip(old.run(None, inputs), new.run(None, inputs), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-3 * np.abs(before).max())


def test_parameters_that_a_caller_may_override_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.onnx"
    source = str(REAL / "onnx" / "ultralight-rfb-320.onnx")
    assert run(["fold", source, "-o", str(out), "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "of 35 BatchNorms can be folded" in shown
    assert not out.exists()
