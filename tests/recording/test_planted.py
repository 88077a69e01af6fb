"""Trainings with one fault each: what is found while they run, at which step, and by `drift`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.findings import Finding
from bncheck.recording import Recorder
from bncheck.recording.watching import Watch
from tests.recording.training import Training, batch, net

BOTH = ("1", "5")


def spike(training: Training, step: int, x: Tensor) -> None:
    training.rate = 5.0 if 150 <= step < 155 else 0.05


def other_data(training: Training, step: int, x: Tensor) -> Tensor | None:
    return 3 * x + 2 if step >= 150 else None


def frozen_half(training: Training, step: int, x: Tensor) -> None:
    for layer in list(training.model)[:3]:
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None


def nan_once(training: Training, step: int, x: Tensor) -> Tensor | None:
    return x * float("nan") if step == 137 else None


class AverageInItsPlace:
    """An average of the weights, whose buffers nobody averages, is loaded at step 150."""

    def __call__(self, training: Training, step: int, x: Tensor) -> None:
        if step == 1:
            self.average = copy.deepcopy(training.model)
        for mine, theirs in zip(
            self.average.parameters(), training.model.parameters(), strict=True
        ):
            mine.data.lerp_(theirs.data, 0.02)
        if step == 150:
            training.model.load_state_dict(self.average.state_dict())


def warm_restarts(training: Training, step: int, x: Tensor) -> None:
    training.rate = 0.2 * (1 + math.cos(math.pi * ((step - 1) % 120) / 120)) / 2


def falling(training: Training, step: int, x: Tensor) -> None:
    training.rate = 0.2 * (1 + math.cos(math.pi * step / 300)) / 2


def validated(change: Callable[[Tensor], Tensor]) -> Callable[[Training, int, Tensor], None]:
    """Every 39 steps ten batches go through the model, which nobody has put into eval()."""

    def hook(training: Training, step: int, x: Tensor) -> None:
        if step >= 150 and step % 39 == 0:
            generator = torch.Generator().manual_seed(step)
            with torch.no_grad():
                for _ in range(10):
                    training.model(change(batch(generator)[0]))

    return hook


#: What is planted, in which net, what is found in which layers, and at which step.
PLANTED: list[tuple[str, Callable[[], Training], str, tuple[str, ...], range]] = [
    ("a spike of the rate", lambda: Training(hook=spike), "BN304", BOTH, range(150, 161)),
    ("other data", lambda: Training(hook=other_data), "BN304", ("1",), range(150, 161)),
    ("a frozen half", lambda: Training(hook=frozen_half), "BN301", ("1",), range(20, 21)),
    ("momentum 0", lambda: Training(net(0.0)), "BN302", BOTH, range(20, 21)),
    ("NaN", lambda: Training(hook=nan_once), "BN102", ("1",), range(137, 138)),
    ("an average", lambda: Training(hook=AverageInItsPlace()), "BN305", BOTH, range(160, 161)),
    ("a small momentum", lambda: Training(net(0.001), 0.2, 420), "BN306", ("5",), range(300, 401)),
]


@pytest.mark.parametrize(
    ("plant", "code", "layers", "steps"),
    [planted[1:] for planted in PLANTED],
    ids=[planted[0] for planted in PLANTED],
)
def test_a_fault_is_found_at_its_step_and_by_drift(
    tmp_path: Path, plant: Callable[[], Training], code: str, layers: tuple[str, ...], steps: range
) -> None:
    training = plant().run(tmp_path)
    assert {rule for rule, _ in training.codes} == {code}
    assert {layer for _, layer in training.codes} >= set(layers)
    assert min(int(str(f.evidence["step"])) for f in training.found) in steps
    report = bncheck.drift([tmp_path])
    serious = {(f.rule, f.layer): f for f in reversed(report.findings)}
    for layer in layers:
        assert (code, layer) in serious
        assert serious[code, layer].evidence["step"] in steps
    assert {rule for rule, _ in serious} == {code}


@pytest.mark.parametrize("every", [1, 20])
@pytest.mark.parametrize("hook", [lambda *_: None, warm_restarts, falling, validated(lambda x: x)])
def test_a_sound_training_is_silent(
    tmp_path: Path, hook: Callable[[Training, int, Tensor], None], every: int
) -> None:
    training = Training(hook=hook, steps=360 if every > 1 else 200).run(tmp_path, every=every)
    assert training.found == []
    assert bncheck.drift([tmp_path]).findings == ()


def test_a_validation_without_eval_is_told_as_such(tmp_path: Path) -> None:
    training = Training(hook=validated(lambda x: 3 * x + 2)).run(tmp_path)
    first = next(f for f in training.found if f.rule == "BN308")
    assert first.evidence["step"] == 160
    assert first.evidence["calls"] == 30
    assert "BN308" in {f.rule for f in bncheck.drift([tmp_path]).findings}


def test_what_is_not_finite_is_told_with_the_batch(tmp_path: Path) -> None:
    (at_once,) = Training(hook=nan_once, steps=140).run(tmp_path / "a", every=1).found
    assert "the batch reached 1 not finite" in at_once.message
    (later,) = Training(hook=nan_once, steps=140).run(tmp_path / "b", every=100).found
    assert later.evidence["step"] == 137
    assert "loss nan" in later.message
    assert "when last recorded" in later.message


def test_a_batch_of_one_is_told_before_torch_refuses_it(tmp_path: Path) -> None:
    found: list[Finding] = []
    model = net()

    def train() -> None:
        with Recorder(model, tmp_path, every=10, on_finding=found.append) as recorder:
            for size in (8, 8, 1):
                model(torch.randn(size, 8))
                recorder.step()

    with pytest.raises(ValueError, match="Expected more than 1 value"):
        train()
    assert [(f.rule, f.evidence["step"]) for f in found] == [("BN209", 3)]
    told = bncheck.drift([tmp_path]).findings
    assert [(f.rule, f.evidence["step"]) for f in told] == [("BN209", 3)]


def test_a_network_left_in_eval_mode_is_told_to_be_and_not_to_be_recalibrated(
    tmp_path: Path,
) -> None:
    """Its weights were trained with the statistics that it has."""

    def leave(own: Training, step: int, x: Tensor) -> None:
        if step >= 150:
            own.model.eval()

    training = Training(hook=leave).run(tmp_path)
    found = [finding for finding in training.found if finding.rule == "BN302"]
    assert {finding.layer for finding in found} == set(BOTH)
    for finding in found:
        assert "no batch in train() since" in finding.message
        assert finding.fix.startswith(
            "call train() on the network, unless it is in eval() on purpose"
        )
        assert "`bncheck inspect --data` tells whether" in finding.fix


def test_an_average_of_weights_alone_is_told_as_a_series_of_its_own(tmp_path: Path) -> None:
    training = Training()
    average = copy.deepcopy(training.model)

    def follow(own: Training, step: int, x: Tensor) -> None:
        for mine, theirs in zip(average.parameters(), own.model.parameters(), strict=True):
            mine.data.lerp_(theirs.data, 0.02)

    training.hook = follow
    training.run(tmp_path, also={"ema": average})
    assert training.codes == {("BN302", layer) for layer in BOTH}
    assert {f.evidence["series"] for f in training.found} == {"ema"}
    assert all("use_buffers=True" in f.fix for f in training.found)
    report = bncheck.drift([tmp_path], key="ema")
    assert {(f.rule, f.layer) for f in report.findings} == {("BN302", layer) for layer in BOTH}
    # Whoever looks at the model hears of the others.
    for whole in (bncheck.drift([tmp_path]), Watch(tmp_path).look()):
        assert whole.verdict == "suspect"
        told = {(f.rule, f.layer, f.evidence["series"]) for f in whole.findings}
        assert told == {("BN302", f"ema/{layer}", "ema") for layer in BOTH}
        assert all("--key ema" in f.fix for f in whole.findings)
    assert {f.layer for f in Watch(tmp_path, "ema").look().findings} == set(BOTH)


def test_the_log_names_the_model(tmp_path: Path, logged: list[str]) -> None:
    other = net(0.0)
    models = [net(), other]

    def both(training: Training, step: int, x: Tensor) -> None:
        other(x).square().mean().backward()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter -= 0.01 * parameter.grad  # type: ignore[operator, misc]

    Training(models[0], hook=both, steps=40).run(tmp_path, also={"other": other}, on_finding="warn")
    assert "BN302 other/1: its weight and bias have moved" in "".join(logged)
    assert "(momentum 0)" in "".join(logged)


def test_nothing_is_measured_by_a_negative_variance(tmp_path: Path) -> None:
    """A standard deviation that does not exist made W2 of 150 digits."""

    def negative(training: Training, step: int, x: Tensor) -> None:
        if step == 100:
            training.model[1].running_var[3] = -50.0

    training = Training(hook=negative, steps=200).run(tmp_path, every=5)
    assert {rule for rule, layer in training.codes if layer == "1"} == {"BN103"}
    assert max(len(finding.message) for finding in training.found) < 300


def test_what_trails_at_the_usual_momentum_is_not_told_to_use_it(tmp_path: Path) -> None:
    def fast(training: Training, step: int, x: Tensor) -> None:
        training.model[0].bias.data += 1.0  # away from under the averages

    training = Training(hook=fast, steps=120).run(tmp_path, every=10)
    trailing = [finding for finding in training.found if finding.rule == "BN306"]
    assert [finding.layer for finding in trailing] == ["1"]
    assert "(momentum 0.1)" in trailing[0].message
    assert "momentum" not in trailing[0].fix


def test_a_finding_can_raise(tmp_path: Path) -> None:
    with pytest.raises(bncheck.BncheckError, match="step 137: BN102 1: NaN"):
        Training(hook=nan_once).run(tmp_path, on_finding="raise")


def test_real_and_fake_batches_of_a_discriminator_are_no_fault(tmp_path: Path) -> None:
    """Its layers are called on two distributions in every step."""
    found: list[Finding] = []
    generator, discriminator = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), net()
    models = [*generator.parameters(), *discriminator.parameters()]
    optimizer = torch.optim.SGD(models, 0.01)
    recorder = Recorder(
        generator, tmp_path, every=10, also={"D": discriminator}, on_finding=found.append
    )
    torch.manual_seed(0)
    for _ in range(200):
        real = discriminator(torch.randn(64, 8) + 3).mean()
        fake = discriminator(generator(torch.randn(64, 4))).mean()
        optimizer.zero_grad()
        (real - fake).abs().backward()
        optimizer.step()
        recorder.step()
    recorder.close()
    assert found == []
    assert bncheck.drift([tmp_path], key="D").findings == ()


def test_what_is_said_of_a_jump_names_the_step_before(tmp_path: Path) -> None:
    """While the training runs a snapshot is no file yet, and the record's name says nothing."""
    training = Training(hook=other_data, steps=180).run(tmp_path)
    jump = training.found[0]
    assert jump.rule == "BN304"
    step = int(str(jump.evidence["step"])) - 20
    assert jump.fix.endswith(f"step {step} is the last snapshot before it")


class Held(nn.Module):
    """As a LightningModule holds it: all names begin with `net.`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def test_layers_whose_names_begin_alike_are_judged_from_the_files_too(tmp_path: Path) -> None:
    """What their batches were like is kept under the names that the model has for them."""
    training = Training(Held(), hook=other_data).run(tmp_path, every=1)
    live = {(f.rule, f.layer) for f in training.found}
    assert ("BN304", "net.1") in live
    assert {(f.rule, f.layer) for f in bncheck.drift([tmp_path]).findings} == live


def test_a_network_without_batchnorm_is_judged_by_its_batches(tmp_path: Path) -> None:
    def plain() -> nn.Sequential:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
                             nn.Linear(16, 4))  # fmt: skip

    sound = Training(plain()).run(tmp_path / "sound", layers="all")
    assert sound.found == []
    training = Training(plain(), hook=other_data).run(tmp_path / "other", layers="all")
    told = {(f.layer, f.evidence["step"]) for f in training.found if f.rule == "BN304"}
    assert ("0", 160) in told
    found = bncheck.drift([tmp_path / "other"]).findings
    assert {(f.layer, f.evidence["step"]) for f in found} == told
