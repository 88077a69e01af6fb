"""Real trainers and real loggers for some steps: Lightning, transformers, TensorBoard."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bncheck
from bncheck.reading.record import read_record
from bncheck.recording import Recorder
from tests.recording.loggers import STEPS as STEPS_LOGGED
from tests.recording.loggers import wandb_tells
from tests.recording.training import Training, batch, net

STEPS = 24


def data(number: int) -> TensorDataset:
    return TensorDataset(*batch(torch.Generator().manual_seed(0), number))


@pytest.fixture(autouse=True)
def quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def steps_in(folder: Path) -> list[int]:
    return [entry.step for entry in read_record(folder).entries]


def test_lightning(tmp_path: Path) -> None:
    """With accumulated gradients: steps are updates. The logger gets the scalars."""
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, given: Any, place: int) -> Tensor:
            x, y = given
            return nn.functional.cross_entropy(self.net(x), y)

        def validation_step(self, given: Any, place: int) -> None:
            self.net(given[0] + 100)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.05)

    monitor = bncheck.recording.lightning.BatchNormMonitor(tmp_path / "run", every=10)
    saver = lightning.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    logger = lightning.loggers.CSVLogger(tmp_path / "logs")
    loader = DataLoader(data(64 * STEPS), 64)
    trainer = lightning.Trainer(
        max_epochs=2, accumulate_grad_batches=2, callbacks=[monitor, saver], logger=logger,
        accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), loader, DataLoader(data(64), 64))
    record = read_record(tmp_path / "run")
    assert [entry.step for entry in record.entries] == [1, 10, 20, 24]
    assert [entry.epoch for entry in record.entries] == [0, 0, 1, 1]
    assert {entry.lr for entry in record.entries} == {0.05}
    assert not record.findings
    report = bncheck.drift([tmp_path / "run"])
    assert report.movement.layers == ("net.1", "net.5")  # as the model and `inspect` call them
    (metrics,) = (tmp_path / "logs").rglob("metrics.csv")
    assert "bncheck/w2/net.1" in metrics.read_text().splitlines()[0]
    again = lightning.Trainer(
        max_epochs=3, accumulate_grad_batches=2, callbacks=[monitor], logger=False,
        accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    again.fit(Module(), loader, ckpt_path=str(tmp_path / "last.ckpt"))
    record = read_record(tmp_path / "run")
    assert [entry.step for entry in record.entries] == [1, 10, 20, 24, 30, 36]
    assert (record.runs, record.trainings, record.findings) == (2, 1, ())


def test_transformers(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.net(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    rows = [{"x": x, "labels": y} for x, y in zip(*data(16 * STEPS).tensors, strict=True)]
    scalars: list[int] = []
    monitor = bncheck.recording.transformers.BatchNormMonitor(tmp_path / "run", every=10)
    monitor.log_to(lambda values, step: scalars.append(step))

    def arguments(epochs: int) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(tmp_path / "out"), per_device_train_batch_size=16,
            num_train_epochs=epochs, report_to=[], save_strategy="epoch", disable_tqdm=True,
            use_cpu=True, logging_steps=5, gradient_accumulation_steps=2,
        )  # fmt: skip

    Trainer(Model(), arguments(2), train_dataset=rows, callbacks=[monitor]).train()
    assert steps_in(tmp_path / "run") == scalars == [1, 10, 20, 24]
    report = bncheck.inspect(tmp_path / "run")
    assert [layer.name for layer in report.layers] == ["net.1", "net.5"]
    assert [layer.counter for layer in report.layers] == [48, 48]  # batches, two for an update
    again = Trainer(Model(), arguments(3), train_dataset=rows, callbacks=[monitor])
    again.train(resume_from_checkpoint=True)
    record = read_record(tmp_path / "run")
    assert [entry.step for entry in record.entries] == [1, 10, 20, 24, 25, 30, 36]
    assert (record.runs, record.trainings, record.findings) == (2, 1, ())


def test_tensorboard(tmp_path: Path) -> None:
    """The event files, read back."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    training = Training(steps=40)
    with SummaryWriter(str(tmp_path / "logs")) as writer:
        recorder = Recorder(training.model, tmp_path / "run", every=20)
        recorder.log_to(writer, histograms=True)
        generator = torch.Generator().manual_seed(0)
        for _ in range(40):
            recorder.step(loss=training.step(*batch(generator)))
        recorder.close()
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    names = {f"bncheck/{name}/{layer}" for layer in "15" for name in
             ("w2", "mean_shift", "log_variance_ratio", "largest", "moved")}  # fmt: skip
    assert set(events.Tags()["scalars"]) == names
    assert [event.step for event in events.Scalars("bncheck/w2/1")] == [1, 20, 40]
    assert "bncheck/1.running_var" in events.Tags()["histograms"]


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would upload, read back. Nothing of it goes to a network or the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for place in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{place}_DIR", str(tmp_path / place))
    rows = wandb_tells(tmp_path)
    told = [row for row in rows if "bncheck/w2/1" in row]
    assert [row["bncheck/step"] for row in told] == STEPS_LOGGED
    names = {f"bncheck/{name}/{layer}" for layer in "15" for name in
             ("w2", "mean_shift", "log_variance_ratio", "largest")}  # fmt: skip
    assert all(names <= set(row) for row in told)
    assert all(0 <= row["bncheck/w2/1"] < 10 for row in told)
    assert [row["bncheck/1.running_var._type"] for row in told] == ["histogram"] * len(told)
    assert sum("bncheck/step" in row for row in rows) == len(told)  # a row for each step
    assert not (tmp_path / "home" / ".netrc").exists()


class Mlflow:
    """What mlflow's module has: log_metrics(metrics, step=...)."""

    def __init__(self) -> None:
        self.told: list[tuple[int | None, set[str]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.told.append((step, set(metrics)))


class WandbRun:
    """What a run of wandb has: define_metric(name, step_metric=...) and log(data)."""

    def __init__(self) -> None:
        self.axes: dict[str, str | None] = {}
        self.told: list[dict[str, float]] = []

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, data: dict[str, float]) -> None:
        self.told.append(data)


def test_mlflow_and_wandb_are_known_by_what_they_can_do(tmp_path: Path) -> None:
    mlflow, run, own = Mlflow(), WandbRun(), []
    training = Training(steps=20)
    recorder = Recorder(training.model, tmp_path, every=10)
    for target in (mlflow, run, lambda values, step: own.append((step, values))):
        recorder.log_to(target)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        training.step(*batch(generator))
        recorder.step()
    recorder.close()
    assert [step for step, _ in mlflow.told] == [step for step, _ in own] == [1, 10, 20]
    assert "bncheck/w2/5" in mlflow.told[-1][1]
    assert run.axes["bncheck/*"] == "bncheck/step"
    assert [told["bncheck/step"] for told in run.told] == [1, 10, 20]
    with pytest.raises(bncheck.BncheckError, match="cannot log to an int"):
        recorder.log_to(3)


def test_a_logger_that_fails_is_one_warning(tmp_path: Path, logged: list[str]) -> None:
    def fail(values: dict[str, float], step: int) -> None:
        raise RuntimeError("no network")

    training = Training(steps=20)
    recorder = Recorder(training.model, tmp_path, every=5)
    recorder.log_to(fail)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        training.step(*batch(generator))
        recorder.step()
    recorder.close()
    assert logged == ["not recorded: cannot log (RuntimeError: no network); the training goes on"]
    assert steps_in(tmp_path) == [1, 5, 10, 15, 20]


def test_importing_the_recorder_imports_nothing_heavy() -> None:
    code = (
        "import json, sys; from bncheck.recording import Recorder; "
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "numpy", "lightning", "transformers", "rich"}.isdisjoint(
        json.loads(done.stdout)
    )
