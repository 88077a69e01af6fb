"""A recorder changes nothing of a training: weights and buffers are equal to the last bit."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import safetensors
import torch
from torch import Tensor, nn

import bncheck
from bncheck.reading.kinds import NormKind
from bncheck.reading.opening import open_checkpoint
from bncheck.recording import Recorder, images, meter
from bncheck.recording.images import Call
from bncheck.recording.observed import Observed
from tests.recording.training import Training, net


def hooks() -> list[object]:
    """torch's hooks for the calls of all modules."""
    module = torch.nn.modules.module
    return [*module._global_forward_pre_hooks.values(), *module._global_forward_hooks.values()]


def assert_equal(first: nn.Module, second: nn.Module) -> None:
    for (name, one), other in zip(
        first.state_dict().items(), second.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


class Mixed(Training):
    """With bfloat16 under autocast."""

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().step(x, y)


class Accumulated(Training):
    """Each update of two batches."""

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        for half, labels in zip(x.chunk(2), y.chunk(2), strict=True):
            loss = nn.functional.cross_entropy(self.model(half), labels)
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss


class Synchronised(Training):
    """SyncBatchNorm, which on a CPU works without a process group alone."""

    def __post_init__(self) -> None:
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
        self.model = converted
        super().__post_init__()


def test_synchronised_layers_are_recorded_as_what_they_are(tmp_path: Path) -> None:
    model = net()
    plain = Synchronised(copy.deepcopy(model), steps=60).run()
    recorded = Synchronised(model, steps=60).run(tmp_path, every=1)
    assert_equal(plain.model, recorded.model)
    assert recorded.found == []
    path = sorted((tmp_path / "snapshots").iterdir())[-2]
    with safetensors.safe_open(path, "np") as file:
        told = json.loads(file.metadata()["bncheck"])["layers"]
    assert {layer["class"] for layer in told.values()} == {"SyncBatchNorm"}
    assert {layer["seen"]["images"] for layer in told.values()} == {64}
    assert [layer.kind for layer in bncheck.inspect(tmp_path).layers] == [NormKind.SYNC] * 2


@pytest.mark.parametrize("kind", [Training, Mixed, Accumulated])
@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("layers", ["norm", "all"])
def test_weights_are_equal_to_the_last_bit(
    tmp_path: Path, kind: type[Training], every: int, layers: str
) -> None:
    model = net()
    plain = kind(copy.deepcopy(model), steps=60).run()
    recorded = kind(model, steps=60).run(tmp_path, every=every, layers=layers)
    assert_equal(plain.model, recorded.model)
    assert recorded.found == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not hooks()


def test_images_are_told_apart_in_few_steps_and_the_rest_is_only_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing moves; the batches are those that every step would have measured."""
    calls: list[str] = []

    def counted(name: str, channels: int, x: Tensor) -> Call:
        calls.append(name)
        return images.measured(name, channels, x)

    monkeypatch.setattr(meter, "measured", counted)
    first = net()
    seen = []
    for brief in (True, False):
        if not brief:
            monkeypatch.setattr(Observed, "_may_be_brief", lambda self, step: False)
        calls.clear()
        training = Training(copy.deepcopy(first), 0.005, 150).run(tmp_path / str(brief), every=1)
        assert training.found == []
        assert len(calls) < 100 if brief else len(calls) == 300
        files = sorted((tmp_path / str(brief) / "snapshots").iterdir())
        states = (open_checkpoint(file).training for file in files[:-1])
        seen.append([s.seen[layer] for s in states if s is not None for layer in "15"])
    for one, other in zip(*seen, strict=True):
        assert one.mean_shift == pytest.approx(other.mean_shift, abs=1e-4)
        assert one.log_variance_ratio == pytest.approx(other.log_variance_ratio, abs=1e-4)
        assert (one.images, one.largest) == (other.images, other.largest)
        assert one.w2 == pytest.approx(other.w2, abs=0.15)  # the noise of other images


def test_nothing_is_hooked_between_recorded_steps(tmp_path: Path) -> None:
    hooked = []

    def look(training: Training, step: int, x: Tensor) -> None:
        hooked.append(bool(hooks()))

    Training(steps=25, hook=look).run(tmp_path, every=10)
    assert [step for step, there in enumerate(hooked, 1) if there] == [1, 10, 20]


def test_a_model_that_is_about_to_be_measured_is_copied_and_saved_as_any_other(
    tmp_path: Path,
) -> None:
    """A hook of the layer's own would be in the file, and measure the copy's batches."""
    model = net()
    recorder = Recorder(model, tmp_path / "run", every=1)
    torch.save(model, tmp_path / "model.pt")
    assert b"bncheck" not in (tmp_path / "model.pt").read_bytes()
    copied = copy.deepcopy(model)
    model(torch.randn(8, 8))
    copied(torch.full((8, 8), 1e6))
    recorder.step()
    recorder.close()
    state = open_checkpoint(tmp_path / "run").training
    assert state is not None
    assert all((seen.largest or 0) < 50 for seen in state.seen.values())


def test_validation_between_two_steps_is_not_taken_for_a_batch(tmp_path: Path) -> None:
    """In the step that is measured a model is also evaluated, on quite other data."""

    def evaluate(training: Training, step: int, x: Tensor) -> None:
        training.model.eval()
        with torch.no_grad():
            training.model(x + 100)
        training.model.train()

    training = Training(steps=60, hook=evaluate).run(tmp_path, every=10)
    state = open_checkpoint(tmp_path).training
    assert training.found == []
    assert state is not None
    assert all((seen.largest or 0) < 50 for seen in state.seen.values())


class Counting:
    """Compiles nothing, and counts how often it is asked to."""

    graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def backend() -> Counting:
    return Counting()


@pytest.mark.parametrize("whole_step", [False, True])
def test_a_compiled_model_is_compiled_as_often_as_without(
    tmp_path: Path, backend: Counting, whole_step: bool
) -> None:
    """A model that torch.compile wraps; once more where the recorder is given the model below it.

    Of that it cannot know, so it hooks it: traced, the hooks do nothing and break no graph.
    """
    first = net()
    models = [first, copy.deepcopy(first)]
    compiled = []
    for model, path in zip(models, (None, tmp_path), strict=True):
        torch._dynamo.reset()
        backend.graphs = 0
        training = Training(model, steps=45)
        target = torch.compile(model, backend=backend, fullgraph=True)
        training.model = _Calls(model, target) if whole_step else target
        training.run(path, every=10) if not whole_step else _run(training, model, path)
        compiled.append(backend.graphs)
    assert_equal(*models)
    assert compiled[0] >= 1
    assert compiled[1] == compiled[0] + whole_step


def test_what_a_compiled_layer_saw_is_told_by_its_own_update(tmp_path: Path) -> None:
    """The batch that moved the averages, as with hooks, within single precision."""
    first = net()
    seen = []
    for name, compile_it in (("hooks", False), ("update", True)):
        model = copy.deepcopy(first)
        training = Training(model, steps=45)
        if compile_it:
            training.model = torch.compile(model, backend="eager")
        training.run(tmp_path / name, every=15)
        state = open_checkpoint(tmp_path / name).training
        assert state is not None
        seen.append(state.seen)
    for layer, hooked in seen[0].items():
        assert seen[1][layer].mean_shift == pytest.approx(hooked.mean_shift, abs=1e-3)
        assert seen[1][layer].log_variance_ratio == pytest.approx(
            hooked.log_variance_ratio, abs=1e-3
        )


class _Calls(nn.Module):
    """A module whose forward a function compiles that the recorder knows nothing of."""

    def __init__(self, model: nn.Module, compiled: object) -> None:
        super().__init__()
        self.compiled = [compiled]

    def forward(self, x: Tensor) -> Tensor:
        return self.compiled[0](x)  # type: ignore[operator, no-any-return]


def _run(training: Training, model: nn.Module, path: Path | None) -> None:
    """The recorder is given the bare model, which is called through the compiled one."""
    if path is None:
        training.run()
        return
    called = training.model
    torch.manual_seed(training.seed)
    generator = torch.Generator().manual_seed(training.seed)
    from tests.recording.training import batch

    recorder = Recorder(model, path, every=10)
    called.train()
    model.train()
    for _ in range(training.steps):
        training.step(*batch(generator))
        recorder.step()
    recorder.close()
