"""What torch's exporter and its users fall into, one test each."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import bncheck
from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.shipping.axes import Axes, check_free, traced
from bncheck.shipping.export import ExportOptions, export_program
from bncheck.shipping.naming import input_names, output_names
from bncheck.shipping.onnx_side import OnnxSide
from bncheck.shipping.proof import prove
from bncheck.shipping.sides import TorchSide
from bncheck.shipping.torch_to_onnx import Converted, _inexpressible, opset_of, to_onnx
from tests.folding.command import SAMPLES, USER
from tests.shipping.nets import (
    IMAGES,
    Counting,
    Dicts,
    FixedBatch,
    GroupsOfTheBatch,
    HalfConv,
    Stateful,
    Stays,
    Unit,
    listing,
    made,
)
from tests.warm import forked

torch.set_num_threads(1)

HEALTHY = [str(SAMPLES / "healthy.pt"), "--model", f"{SAMPLES / 'nets.py'}:DigitNet"]


def test_groups_that_depend_on_the_batch_need_it_fixed_as_the_hint_says(tmp_path: Path) -> None:
    model, path = made(GroupsOfTheBatch), tmp_path / "net.onnx"
    with pytest.raises(BncheckError, match=r"groups that depend on the batch.*dynamic_batch=False"):
        bncheck.export(model, IMAGES, path)
    assert not path.exists()
    report = bncheck.export(model, IMAGES, path, dynamic_batch=False, timing=False)
    assert report.fold is not None
    assert report.fold.folded == 1


@pytest.fixture
def training_module(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "net.pt"
    module = torch.load(SAMPLES / "healthy-module.pt", weights_only=False)
    torch.save(module.train(), path)
    return path


def test_a_module_saved_in_training_mode_stops_the_export(
    training_module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["export", str(training_module), "--trust", "--input", "1,8,8"]
    assert run([*arguments, "-o", str(out / "net.onnx")]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("STOPPED")
    assert "BN401" in printed
    assert "--force" in printed
    assert listing(out) == []
    with pytest.raises(BncheckError, match="training mode"):
        bncheck.export(made(Unit).train(), (IMAGES,), out / "net.onnx")


def test_force_exports_it_as_in_eval_mode(
    training_module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.onnx"
    arguments = ["export", str(training_module), "--trust", "--input", "1,8,8", "--force"]
    assert run([*arguments, "-o", str(out)]) == 0
    captured = capsys.readouterr()
    assert "BN401" in captured.err
    assert captured.out.startswith("exported")
    same = ["compare", str(SAMPLES / "healthy.pt2"), str(out)]
    assert run(same) == 0


def test_broken_statistics_stop_the_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.onnx"
    arguments = [str(SAMPLES / "never-updated.pt"), *HEALTHY[1:], "--input", "1,8,8"]
    assert run(["export", *arguments, "-o", str(out), "--json"]) == 1
    assert '"BN101"' in capsys.readouterr().out
    assert listing(tmp_path) == []


def test_one_fault_in_many_layers_is_one_thing_to_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(SAMPLES / "nan.pt"), *HEALTHY[1:], "--input", "1,8,8"]
    assert run(["export", *arguments, "-o", str(tmp_path / "net.onnx")]) == 1
    printed = capsys.readouterr().out
    assert printed.count("BN102") == 1
    assert "in 4 layers" in printed


def test_a_program_in_training_mode_is_stopped_and_forced_it_is_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch 2.13 writes a BatchNorm in training mode as one in eval mode, without a word."""
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(made(Unit).train(), (IMAGES,)), path)
    arguments = ["export", str(path), "-o", str(tmp_path / "net.onnx")]
    assert run(arguments) == 1
    assert "BN401" in capsys.readouterr().out
    assert run([*arguments, "--force"]) == 1
    printed = capsys.readouterr().out
    assert "BN404" in printed
    assert "relu: the ONNX file differs from the original" in " ".join(printed.split())
    assert listing(tmp_path) == ["net.pt2"]


def test_a_half_convolution_before_a_float_batchnorm(tmp_path: Path) -> None:
    report = bncheck.export(made(HalfConv), (IMAGES.half(),), tmp_path / "n.onnx", timing=False)
    assert report.batchnorm_nodes == 0
    assert report.proof is not None
    assert [level.refused for level in report.proof.levels] == [None, None, None]
    assert report.proof.worst < 5e-3


def test_what_onnxruntime_has_no_kernel_for_is_said_and_judged_by_the_reference(
    tmp_path: Path,
) -> None:
    model = made(Unit).double()
    report = bncheck.export(model, (IMAGES.double(),), tmp_path / "net.onnx", timing=False)
    assert report.proof is not None
    *levels, reference = report.proof.levels
    assert all("Conv" in str(level.refused) for level in levels)
    assert reference.level == "reference"
    assert reference.parity is not None
    assert reference.parity.max_relative_error < 1e-12
    assert reference.parity.batches == (1, 3)


def test_a_small_model_has_no_empty_data_file_and_a_large_pair_can_be_moved(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    program = traced(made(Unit), (IMAGES,), Axes())
    options = ExportOptions(timing=False, one_file_below=100)
    report = export_program(program, tmp_path / "a" / "net.onnx", options)
    assert report.file is not None
    assert report.file.data == str(tmp_path / "a" / "net.onnx.data")
    assert listing(tmp_path / "a") == ["net.onnx", "net.onnx.data"]
    (tmp_path / "a").rename(tmp_path / "b")
    session = onnxruntime.InferenceSession(tmp_path / "b" / "net.onnx")
    (y,) = session.run(None, {"x": IMAGES.numpy()})
    np.testing.assert_allclose(y, made(Unit)(IMAGES).detach().numpy(), atol=1e-5)


def test_names_of_dicts_lists_and_several_inputs(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    example = (IMAGES, torch.randn(2, 4))
    report = bncheck.export(made(Dicts), example, path, timing=False)
    assert [port.name for port in report.inputs] == ["image", "scale"]
    assert [(p.name, p.dtype) for p in report.outputs] == [
        ("logits", "float32"),
        ("conv2d_0", "float32"),
        ("conv2d_1", "int64"),
    ]
    expected = made(Dicts)(*example)
    session = onnxruntime.InferenceSession(path)
    feed = {"image": example[0].numpy(), "scale": example[1].numpy()}
    logits, classes = session.run(["logits", "conv2d_1"], feed)
    np.testing.assert_allclose(logits, expected["logits"].detach().numpy(), atol=1e-5)
    assert classes.tolist() == expected["conv2d"][1].tolist()


def test_names_can_be_given_and_must_fit() -> None:
    program = traced(made(Unit), (IMAGES,), Axes())
    assert input_names(program, ["image"]) == ["image"]
    assert output_names(program, ["output"]) == ["output_out"]
    with pytest.raises(BncheckError, match="2 names for 1 outputs"):
        output_names(program, [], ["a", "b"])


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_the_opset_is_the_one_asked_for(opset: int, tmp_path: Path) -> None:
    """torch writes 18 where 11 or 13 is asked for (pytorch#161056)."""
    report = bncheck.export(made(Unit), (IMAGES,), tmp_path / "a.onnx", opset=opset, timing=False)
    assert report.file is not None
    assert report.proof is not None
    assert report.file.opset == opset_of(onnx.load(tmp_path / "a.onnx")) == opset
    assert [level.refused for level in report.proof.levels] == [None] * 3


@pytest.mark.parametrize("opset", [10, 99])
def test_an_opset_that_cannot_be_written_is_an_error(opset: int, tmp_path: Path) -> None:
    with pytest.raises(BncheckError, match=f"opset={opset} .*give 11 to"):
        bncheck.export(made(Unit), (IMAGES,), tmp_path / "b.onnx", opset=opset)
    assert listing(tmp_path) == []


def test_a_missing_library_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as where it is not installed
    arguments = [*HEALTHY, "--input", "1,8,8", "-o", str(tmp_path / "net.onnx")]
    assert run(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "bncheck: error: export to ONNX needs onnxscript, which is not installed; "
    )
    assert error.count("\n") == 1


def test_the_project_s_configuration_judges_the_statistics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--input", "1,8,8", "-o", str(tmp_path / "net.onnx")]
    arguments = ["export", str(SAMPLES / "never-updated.pt"), *HEALTHY[1:], *out]
    assert run([*arguments, "--ignore", "BN1"]) == 0
    assert capsys.readouterr().out.startswith("exported")


def test_the_target_is_checked_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "user.py").write_text("raise RuntimeError('the model was built')")
    model = ["--model", f"{tmp_path / 'user.py'}:build", "--input", "1,8,8"]
    for target in ("missing/net.onnx", "net.pt2", "."):
        arguments = [HEALTHY[0], *model, "-o", str(tmp_path / target)]
        assert run(["export", *arguments]) == 2
        error = capsys.readouterr().err
        assert "the model was built" not in error
        assert len(error.splitlines()) == 1


def test_an_unexportable_model_is_one_line_with_the_user_s_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "user.py").write_text(USER)
    (tmp_path / "out").mkdir()
    model = ["--model", f"{tmp_path / 'in' / 'user.py'}:Branches", "--input", "1,8,8"]
    assert run(["export", HEALTHY[0], *model, "-o", str(tmp_path / "out" / "net.onnx")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert "user.py:" in captured.err
    assert "if y.sum() > 0" in captured.err
    assert "\x1b" not in captured.err
    assert listing(tmp_path / "out") == []


def test_an_operator_without_onnx_form_is_named(tmp_path: Path) -> None:
    class Decomposes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            size: torch.Tensor = torch.linalg.qr(x)[1].abs()
            return size

    program = torch.export.export(Decomposes(), (torch.eye(3),))
    with pytest.raises(BncheckError, match=r"calls aten\.linalg_qr, for which torch") as caught:
        to_onnx(program, ["x"], ["y"])
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "user.py").write_text(
        USER.replace("class Branches", "import os, signal\nclass Interrupted(DigitNet):\n"
        "    def forward(self, x):\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "        return super().forward(x)\n\nclass Branches")
    )  # fmt: skip
    model = ["--model", f"{tmp_path / 'user.py'}:Interrupted", "--input", "1,8,8"]
    done = forked(["export", HEALTHY[0], *model, "-o", str(out / "net.onnx")], tmp_path)
    assert (done.returncode, done.stderr) == (130, "bncheck: interrupted\n")
    assert done.stdout == ""
    assert listing(out) == []


def test_a_batch_that_the_model_fixes_is_fixed_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = bncheck.export(made(FixedBatch), (IMAGES,), tmp_path / "net.onnx", timing=False)
    assert report.inputs[0].shape == (2, 3, 8, 8)
    assert report.proof is not None
    assert report.proof.measured[0].batches == (2,)
    assert report.notes == (
        "torch.export fixes the batch at 2: the result takes no other size; --static-batch makes it"
        " 1 (in Python, an example of one sample)",
    )
    with pytest.raises(BncheckError, match="axis 0 of the input x cannot be dynamic") as caught:
        traced(made(FixedBatch), (IMAGES,), Axes(batch=True))
    assert ".py:" in caught.value.sentence
    assert "view(2, -1)" in caught.value.sentence


@pytest.mark.parametrize(
    ("batch", "axes"), [(1, Axes()), (2, Axes()), (2, Axes(True)), (2, Axes(more={"h": (1,)}))]
)
def test_the_batch_of_a_state_is_another_axis(batch: int, axes: Axes) -> None:
    inputs = (torch.randn(batch, 4, 3), torch.randn(2, batch, 6))
    side = TorchSide(traced(made(Stateful), inputs, axes))
    x, h = side.inputs
    assert h.shape == (2, x.shape[0], 6)
    assert side.shapes(5, 1) == [(5, 4, 3), (2, 5, 6)]


class _TimeFirst(nn.Module):
    """(T, B, C), as recurrent networks take it unless told otherwise, and two states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, num_layers=2), nn.Linear(6, 3)

    def forward(
        self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y, (h, c) = self.lstm(x, (h, c))
        return self.head(y), h, c


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_behind_the_time_is_free_and_varied(batch: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, states = _TimeFirst().eval(), (torch.randn(2, batch, 6), torch.randn(2, batch, 6))
    report = bncheck.export(
        net, (torch.randn(3, batch, 4), *states), tmp_path / "n.onnx", timing=False
    )
    assert [port.shape for port in report.inputs] == [(3, "x_1", 4), *[(2, "x_1", 6)] * 2]
    assert report.proof is not None
    assert len(report.proof.measured[0].batches) == 2  # of two samples, and of four
    given = (torch.randn(3, 7, 4), torch.randn(2, 7, 6), torch.randn(2, 7, 6))
    feed = {name: t.numpy() for name, t in zip("xhc", given, strict=True)}
    y, *_ = onnxruntime.InferenceSession(tmp_path / "n.onnx").run(None, feed)
    np.testing.assert_allclose(y, net(*given)[0].detach().numpy(), atol=1e-5)


class _TimeFirstGru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.bn = nn.GRU(4, 5), nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bn(self.gru(x)[0][-1])
        return y


class _Lstm(nn.Module):
    """Runs at any time; no size is written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.lstm(x)[0]
        return y


def test_an_axis_that_torch_export_fixes_is_not_blamed_on_the_model() -> None:
    model, x = made(_Lstm), torch.randn(3, 2, 4)
    with pytest.raises(BncheckError, match="cannot be dynamic") as caught:
        traced(model, (x,), Axes(more={"x": (0,)}, of_batch=(1,)))
    assert "torch.export fixes it at 3, at test_traps.py:" in caught.value.sentence
    assert "self.lstm(x)[0]" in caught.value.sentence
    assert caught.value.hint == "leave the axis static"
    program = torch.export.export(model, (x,))
    with pytest.raises(BncheckError, match="the program fixes it at 3;") as caught:
        check_free(program, Axes(more={"x": (0,)}))
    assert "make the .pt2 with that axis free" in caught.value.hint


def test_a_batch_behind_the_time_needs_no_option_and_the_time_is_said(tmp_path: Path) -> None:
    model, x = made(_TimeFirstGru), torch.randn(3, 2, 4)
    with pytest.raises(BncheckError, match=r"axis 0 of the input x .* fixes it at 3") as caught:
        bncheck.export(model, x, tmp_path / "net.onnx", dynamic_batch=True)
    assert "leave out dynamic_batch=True: axis 1 of x" in caught.value.hint
    report = bncheck.export(model, x, tmp_path / "net.onnx", timing=False)
    assert [port.shape for port in report.inputs] == [(3, "x_1", 4)]
    assert report.notes == (
        "torch.export fixes the first axis of the inputs at 3: the result takes no other size",
    )


def test_a_network_with_a_state_is_folded_at_several_batches(tmp_path: Path) -> None:
    inputs = (torch.randn(2, 4, 3), torch.randn(2, 2, 6))
    report = bncheck.export(made(Stateful), inputs, tmp_path / "net.onnx", timing=False)
    assert report.batchnorm_nodes == 0
    assert [port.shape for port in report.inputs] == [("batch", 4, 3), (2, "batch", 6)]
    assert report.fold is not None
    assert report.fold.parity is not None
    assert report.fold.parity.batches == (1, 3)


def test_axes_are_free_as_asked_for() -> None:
    free = traced(made(Unit), (IMAGES,), Axes(more={"x": (0, 2, 3)}))
    (port,) = TorchSide(free).inputs
    assert [isinstance(size, str) for size in port.shape] == [True, False, True, True]
    assert TorchSide(free).shapes(5, 2) == [(5, 3, 16, 16)]
    (port,) = TorchSide(traced(made(Unit), (IMAGES,), Axes(batch=False))).inputs
    assert port.shape == (1, 3, 8, 8)
    for axes, words in (
        (Axes(more={"x": (1,)}), "cannot be dynamic"),
        (Axes(more={"y": (1,)}), "not an input"),
        (Axes(more={"x": (7,)}), "no axis 7"),
        (Axes(batch=False, more={"x": (0,)}), "contradict"),
    ):
        with pytest.raises(BncheckError, match=words):
            traced(made(Unit), (IMAGES,), axes)


def test_a_buffer_that_changes_is_mentioned(tmp_path: Path) -> None:
    report = bncheck.export(made(Counting), (IMAGES,), tmp_path / "net.onnx", timing=False)
    assert "calls" in report.notes[0]


def test_no_fold_keeps_batchnorm_although_the_exporter_would_not() -> None:
    program = traced(made(Unit), (IMAGES,), Axes())
    kept = to_onnx(program, ["x"], ["y"]).model
    assert [n.op_type for n in kept.graph.node].count("BatchNormalization") == 1
    changed = onnx.ModelProto()
    changed.CopyFrom(kept)
    head = next(t for t in changed.graph.initializer if t.name == "head.bias")
    numbers = onnx.numpy_helper.to_array(head) + 0.01
    head.CopyFrom(onnx.numpy_helper.from_array(numbers, "head.bias"))
    same, other = (prove(TorchSide(program), OnnxSide(model)) for model in (kept, changed))
    assert same.holds
    assert not other.holds
    assert other.parts_at == "head"


def test_what_stays_is_rewritten_at_every_rank(tmp_path: Path) -> None:
    torch.manual_seed(0)
    report = bncheck.export(
        Stays(3).eval(), (torch.randn(2, 6, 4),), tmp_path / "net.onnx", timing=False
    )
    assert report.after == {"Tanh": 2, "Add": 1, "Mul": 1}


@pytest.mark.parametrize("fold", [True, False])
def test_a_program_is_converted_once(
    fold: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of the unfolded model is told from the folded one."""
    made_of: list[object] = []

    def counted(program: object, *rest: object) -> Converted:
        made_of.append(program)
        return to_onnx(program, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("bncheck.shipping.export.to_onnx", counted)
    options = ExportOptions(fold=fold, timing=False)
    export_program(traced(made(Unit), (IMAGES,), Axes()), tmp_path / "net.onnx", options)
    assert len(made_of) == 1


def test_torch_makes_its_table_of_functions_once_and_keeps_its_own_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    make, made_of = ONNXRegistry.from_torchlib, []

    def counted(**opset: int) -> ONNXRegistry:
        made_of.append(opset)
        return make(**opset)

    monkeypatch.setattr(ONNXRegistry, "from_torchlib", staticmethod(counted))
    program = traced(made(Unit), (IMAGES,), Axes())
    first, second = (to_onnx(program, ["x"], ["y"]) for _ in range(2))
    assert len(made_of) == 1
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert ONNXRegistry.from_torchlib is counted


def test_a_forward_of_any_number_of_inputs_is_exported_with_the_axes_that_are_asked_for(
    tmp_path: Path,
) -> None:
    class Variadic(Unit):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs[0])

    path = tmp_path / "net.onnx"
    bncheck.export(made(Variadic), (IMAGES,), path, dynamic_batch=False)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


class _Points(nn.Module):
    """As many rows as numbers are positive, twice indexed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)[0, 0]
        places = torch.nonzero(y > 0)
        return torch.stack([y[places[:, 0], places[:, 1]], y[places[:, 1], places[:, 0]]])


def test_sizes_that_depend_on_values_are_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = _Points().eval(), torch.randn(1, 1, 9, 9)
    report = bncheck.export(net, x, tmp_path / "p.onnx", dynamic_batch=False)
    assert [port.shape[0] for port in report.outputs] == [2]
    (y,) = onnxruntime.InferenceSession(tmp_path / "p.onnx").run(None, {"x": x.numpy()})
    np.testing.assert_allclose(y, net(x).detach().numpy(), atol=1e-5)


def test_what_torch_says_of_sizes_that_depend_on_values_is_put_in_words() -> None:
    error = _inexpressible(ValueError("u0: Unbacked symbol without a binding"))
    assert "sizes that depend on the values of a tensor" in str(error)
    assert "--part" in error.hint
