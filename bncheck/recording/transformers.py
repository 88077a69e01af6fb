"""A callback for the Trainer of Hugging Face's transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from bncheck.recording.recorder import Recorder

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class BatchNormMonitor(TrainerCallback):
    """Records the layers of the Trainer's model into the folder `path` while it trains.

    `options` are those of `bncheck.recording.Recorder`; steps are the trainer's global steps.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        self._path, self._options = path, options
        self._sinks: list[tuple[Any, bool]] = []
        self.recorder: Recorder | None = None

    def log_to(self, target: Any, *, histograms: bool = False) -> None:
        """See `Recorder.log_to`."""
        self._sinks.append((target, histograms))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Begin, or go on with the record that is there."""
        options = {"optimizer": given.get("optimizer"), **self._options}
        self.recorder = Recorder(given["model"], self._path, **options)
        for target, histograms in self._sinks:
            self.recorder.log_to(target, histograms=histograms)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """An update."""
        if self.recorder is not None:
            last = state.log_history[-1] if state.log_history else {}
            epoch = None if state.epoch is None else int(state.epoch)
            self.recorder.step(loss=last.get("loss"), epoch=epoch, step=state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """The last step."""
        if self.recorder is not None:
            self.recorder.close()
        self.recorder = None
