"""recalibrate repairs what statistics can, writes only what helps, and changes nothing else."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Severity, Verdict
from bncheck.inspecting.from_file import InspectOptions
from bncheck.recalibrating.command import recalibrate_file
from bncheck.recalibrating.report import RecalibrationReport
from bncheck.subject.setup import Measuring
from tests import planted
from tests.planted import SAMPLES, DigitNet

torch.set_num_threads(1)

MODEL = str(SAMPLES / "nets.py:DigitNet")
TRAINING, TEST = str(SAMPLES / "digits-train.npz"), str(SAMPLES / "digits-test.npz")
SICK = ("never-updated.pt", "one-layer-reset.pt", "nan.pt", "negative-variance.pt", "stale.pt",
        "under-warmed-module.pt", "class-sorted.pt", "wrong-input-scale.pt",
        "momentum-0.9-module.pt", "ema-initial-buffers.pt")  # fmt: skip


def repaired(name: str, folder: Path) -> tuple[RecalibrationReport, Path, str | None]:
    key = "ema" if name.startswith("ema") else None
    out = folder / name
    # Data of another scale would look the same: only the user can tell, and says so.
    measuring = Measuring(MODEL, TRAINING, force=name == "wrong-input-scale.pt")
    return recalibrate_file(SAMPLES / name, out, InspectOptions(key), measuring), out, key


@torch.no_grad()
def accuracy(path: Path, key: str | None) -> float:
    x, y = planted.digits("test")
    net = DigitNet().eval()
    tensors = bncheck.open_checkpoint(path, key=key).tensors
    net.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    return float((net(x).argmax(dim=1) == y).double().mean())


@pytest.mark.parametrize("name", SICK)
def test_typing_the_command_makes_it_well(name: str, tmp_path: Path) -> None:
    report, out, key = repaired(name, tmp_path)
    assert report.written == out
    again = bncheck.inspect(out, TEST, model=MODEL, key=key)
    assert again.summary.verdict is Verdict.HEALTHY, again.findings
    # README: what the same weights reach with statistics measured anew on all training images.
    best = {"negative-variance.pt": 0.981, "under-warmed-module.pt": 0.983,
            "momentum-0.9-module.pt": 0.986}.get(name, 0.994)  # fmt: skip
    assert accuracy(out, key) >= best - 0.002 - 0.0005


def test_what_inspect_makes_conditional_is_not_written(tmp_path: Path) -> None:
    sick, out = SAMPLES / "wrong-input-scale.pt", tmp_path / "out.pt"
    (finding,) = (f for f in bncheck.inspect(sick, TRAINING, model=MODEL).findings
                  if f.severity is Severity.ERROR)  # fmt: skip
    assert finding.fix.startswith(
        "if these data are what deployment sees, recalibrate with --force"
    )
    report = recalibrate_file(sick, out, InspectOptions(), Measuring(MODEL, TRAINING))
    assert report.reason is not None
    assert "--force" in report.reason
    assert [(f.rule, f.fix) for f in report.findings] == [("BN218", finding.fix)]
    assert not out.exists()


@pytest.mark.parametrize("samples", [64, 1437])
def test_a_healthy_model_stays_what_it_is(samples: int, tmp_path: Path) -> None:
    """Statistics of a few samples would be noise, and those of many no better."""
    x, y = planted.digits("train")
    net, data = planted.healthy(), (x[:samples], y[:samples])
    report = bncheck.recalibrate(net, data)
    assert report.reason is not None
    assert "agree with the data" in report.reason
    assert bncheck.recalibrate(net, data, force=True).reason is None
    _, out, _ = repaired("healthy.pt", tmp_path)
    assert not out.exists()


def test_counters_no_longer_say_under_warmed(tmp_path: Path) -> None:
    _, out, _ = repaired("under-warmed-module.pt", tmp_path)
    counter = bncheck.open_checkpoint(out).tensors["bn1.num_batches_tracked"]
    assert 0.99 ** int(counter) <= 1e-3
    assert not [f for f in bncheck.inspect(out).findings if f.severity is not Severity.INFO]


def test_repair_without_data(tmp_path: Path) -> None:
    source = SAMPLES / "under-warmed-module.pt"
    report = recalibrate_file(source, tmp_path / "out.pt", InspectOptions(), None)
    assert report.method == "formula"
    assert set(report.after.values()) == {None}  # only data could tell
    old, new = bncheck.open_checkpoint(source).tensors, bncheck.open_checkpoint(
        tmp_path / "out.pt").tensors  # fmt: skip
    w0 = 0.99 ** int(old["bn1.num_batches_tracked"])
    mean = old["bn1.running_mean"].astype(np.float64) / (1 - w0)
    np.testing.assert_allclose(new["bn1.running_mean"].astype(np.float64), mean, rtol=1e-6)
    assert accuracy(tmp_path / "out.pt", None) > accuracy(source, None) + 0.1


@torch.no_grad()
def counted(net: nn.Module, batches: int, folder: Path) -> Path:
    """The module whole, so that its momentum is known, with another counter."""
    net = copy.deepcopy(net)
    for norm in planted.norms_of(net):
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.fill_(batches)
    torch.save(net, folder / f"{batches}.pt")
    return folder / f"{batches}.pt"


@pytest.mark.parametrize("batches", [1, 5, 20, 60])
def test_a_counter_that_cannot_be_right_is_nothing_to_compute_with(
    batches: int, tmp_path: Path
) -> None:
    """Ported files carry such counters; variances became 0 (BN106 says: nothing by itself)."""
    path, out = counted(planted.healthy(), batches, tmp_path), tmp_path / "out.pt"
    with pytest.raises(BncheckError, match="without data"):
        recalibrate_file(path, out, InspectOptions(), None)
    assert not out.exists()


@pytest.mark.parametrize("momentum", [0.01, 0.003, 0.001])
def test_a_momentum_that_the_variances_refute_is_not_computed_with(
    momentum: float, tmp_path: Path
) -> None:
    out = tmp_path / "out.pt"
    with pytest.raises(BncheckError, match="without data"):
        recalibrate_file(SAMPLES / "healthy.pt", out, InspectOptions(momentum=momentum), None)
    assert not out.exists()


def test_a_counter_that_no_variance_refutes_is_not_believed_either(tmp_path: Path) -> None:
    """The same function with all variances above 2: the weights before the norms are larger."""
    net = copy.deepcopy(planted.healthy())
    state = net.state_dict()
    for norm, layer in (("bn1", "conv1"), ("bn2", "conv2"), ("bn3", "conv3"), ("bn4", "fc1")):
        more = 2.0 / state[f"{norm}.running_var"].min()
        state[f"{layer}.weight"] *= more.sqrt()
        state[f"{norm}.running_mean"] *= more.sqrt()
        state[f"{norm}.running_var"] *= more
    path = counted(net, 1, tmp_path)
    found = {finding.rule for finding in bncheck.inspect(path).findings}
    assert "BN106" in found
    assert "BN105" not in found
    with pytest.raises(BncheckError, match="the weights do not confirm"):
        recalibrate_file(path, tmp_path / "out.pt", InspectOptions(), None)


def test_a_layer_of_which_the_formula_leaves_nothing_stays_as_it_is(tmp_path: Path) -> None:
    """Variance minus share at 0 or far below eps: a dead channel would be multiplied by 1000."""
    tensors = bncheck.open_checkpoint(SAMPLES / "under-warmed-module.pt").tensors
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    state["bn3.running_var"][0] = 0.99 ** int(state["bn3.num_batches_tracked"])
    torch.save(state, tmp_path / "net.pt")
    options, out = InspectOptions(momentum=0.01), tmp_path / "out.pt"
    done = recalibrate_file(tmp_path / "net.pt", out, options, None)
    assert done.layers == ("bn1", "bn2", "bn4")
    assert list(done.unmeasured) == ["bn3"]
    new = bncheck.open_checkpoint(out).tensors
    assert np.array_equal(new["bn3.running_var"], state["bn3.running_var"].numpy())
    assert min(new[f"{name}.running_var"].min() for name in done.layers) > 0


def test_what_bn105_does_not_find_is_not_repaired(tmp_path: Path) -> None:
    """So small a share that inspect says nothing about it."""
    net = nn.Sequential(nn.BatchNorm1d(2, momentum=0.98))
    net.load_state_dict({"0.running_var": torch.tensor([1.1, 1.2]),
                         "0.num_batches_tracked": torch.tensor(1)}, strict=False)  # fmt: skip
    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(BncheckError, match="as BN105 does"):
        recalibrate_file(tmp_path / "net.pt", tmp_path / "out.pt", InspectOptions(), None)


def test_an_onnx_file_is_not_recalibrated(tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match="is onnx, a format in which bncheck cannot write"):
        recalibrate_file(SAMPLES / "healthy.onnx", tmp_path / "out.onnx", InspectOptions(), None)
    assert not list(tmp_path.iterdir())


def test_nothing_to_repair_without_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match="no average that can be repaired without data"):
        recalibrate_file(SAMPLES / "stale.pt", tmp_path / "out.pt", InspectOptions(), None)
    assert not list(tmp_path.iterdir())


def test_population_statistics_are_pooled_over_batches_of_any_order() -> None:
    """Within and between batches: torch's update_bn gets 0.99 instead of 18.55 from sorted data."""
    x = torch.cat([torch.randn(50, 2) + centre for centre in (-6.0, 0.0, 6.0)] + [torch.ones(2, 2)])
    sorted_batches = list(x.split(50))  # type: ignore[no-untyped-call]
    net = nn.Sequential(nn.BatchNorm1d(2))
    state = bncheck.recalibrate(net, sorted_batches).state_dict()
    torch.testing.assert_close(state["0.running_mean"], x.mean(dim=0))
    torch.testing.assert_close(state["0.running_var"], x.var(dim=0))


class TwoHeads(nn.Module):
    """A layer that never runs, and dropout before another."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.used = nn.BatchNorm1d(3)
        self.unused = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(self.drop(x))
        return out


def test_unused_layers_keep_what_they_have_and_dropout_is_off() -> None:
    """fvcore writes variance 0 into unused layers; update_bn measures 3.1 behind dropout."""
    torch.manual_seed(0)
    x = torch.randn(4000, 3) + 1
    net = TwoHeads().train()
    before = copy.deepcopy(net.state_dict())
    report = bncheck.recalibrate(net, x)
    assert report.unreached == ("unused",)
    assert set(report.state_dict()) == {"used.running_mean", "used.running_var"}
    torch.testing.assert_close(report.state_dict()["used.running_var"], x.var(dim=0))
    assert net.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_worse_metric_writes_nothing(tmp_path: Path) -> None:
    def prefers_the_old(output: Tensor, target: Tensor) -> float:
        return -float(output.abs().max())

    out = tmp_path / "out.pt"
    measuring = Measuring(MODEL, TEST, metric=prefers_the_old)
    report = recalibrate_file(SAMPLES / "stale.pt", out, InspectOptions(), measuring)
    if report.reason is None:  # the metric happened to like them: then it has to be written
        assert out.exists()
        return
    assert not out.exists()
    assert [f.rule for f in report.findings] == ["BN208"]


def test_not_over_the_checkpoint_itself(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes((SAMPLES / "stale.pt").read_bytes())
    with pytest.raises(BncheckError, match="is also an input"):
        recalibrate_file(path, path, InspectOptions(), Measuring(MODEL, TRAINING))


@pytest.mark.skipif(planted.real_folder() is None, reason="the real files are not here")
@pytest.mark.parametrize(("samples", "labels"), [(256, True), (128, False)])
def test_clean_images_do_not_destroy_a_real_network(samples: int, labels: bool) -> None:
    x, y = planted.cifar()
    images = planted.normalised(x[:samples])
    report = bncheck.recalibrate(planted.resnet(44), (images, y[:samples]) if labels else images)
    assert report.reason is not None
    assert ("accuracy" if labels else "confidence") in report.reason


def test_json_has_the_promised_keys(tmp_path: Path) -> None:
    data = repaired("stale.pt", tmp_path)[0].to_dict()
    assert data["schema"] == "bncheck.recalibrate/1"
    assert {"before", "after", "metric", "written", "reason"} <= data.keys()
    before, after = data["before"], data["after"]
    assert isinstance(before, list)
    assert isinstance(after, list)
    assert before[3]["w2"] > 0.9
    assert after[3]["w2"] < 0.05
    assert not math.isnan(after[0]["w2"])


def test_a_part_that_shares_the_bytes_and_so_changes_is_said(tmp_path: Path) -> None:
    tensors = bncheck.open_checkpoint(SAMPLES / "under-warmed-module.pt").tensors
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    averaged = {name: t if "running" in name else t.clone() for name, t in state.items()}
    torch.save({"model": state, "ema": averaged}, tmp_path / "two.pt")
    notes: list[str] = []
    options = InspectOptions("model", momentum=0.01)
    done = recalibrate_file(
        tmp_path / "two.pt", tmp_path / "out.pt", options, None, note=notes.append
    )
    assert "ema.bn1.running_mean" in done.also_changed
    assert len(done.also_changed) == 8
    assert done.to_dict()["also_changed"] == list(done.also_changed)
    assert [line for line in notes if "ema.bn1.running_mean and 7 more changed as well" in line]
    for name in ("bn1.running_mean", "bn4.running_var"):
        old = bncheck.open_checkpoint(tmp_path / "two.pt", key="ema").tensors[name]
        new = bncheck.open_checkpoint(tmp_path / "out.pt", key="ema").tensors[name]
        assert old.tobytes() != new.tobytes()


@pytest.mark.parametrize("ending", [".onnx", ".safetensors", ".PT2"])
def test_a_copy_is_not_called_what_it_is_not(ending: str, tmp_path: Path) -> None:
    out = tmp_path / f"x{ending}"
    with pytest.raises(BncheckError, match="the copy is torch-zip"):
        recalibrate_file(SAMPLES / "under-warmed-module.pt", out, InspectOptions(), None)
    assert not out.exists()


def test_figures_are_of_the_eps_that_the_model_runs_with(tmp_path: Path) -> None:
    notes: list[str] = []
    plain, other = (
        recalibrate_file(
            SAMPLES / "stale.pt",
            tmp_path / f"{eps}.pt",
            InspectOptions(eps=eps),
            Measuring(MODEL, TRAINING),
            note=notes.append,
        )
        for eps in (None, 0.1)
    )
    assert other.before == plain.before
    assert [note for note in notes if "--eps" in note] == [
        "--eps 0.1 is not used where the model has its own eps (1e-05)"
    ]
