"""A callback for Lightning's Trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bncheck.recording.recorder import Recorder

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    # The same code under another name: a Trainer takes the callbacks of its own.
    from pytorch_lightning import Callback
else:
    from lightning.pytorch import Callback  # type: ignore[assignment]


class BatchNormMonitor(Callback):
    """Records the layers of the LightningModule into the folder `path` while it trains.

    `options` are those of `bncheck.recording.Recorder`; steps are the trainer's own, updates and
    not batches. With `log` the trainer's loggers are told the scalars, too.
    """

    def __init__(self, path: str | Path, *, log: bool = True, **options: Any) -> None:
        super().__init__()
        self._path, self._log, self._options = path, log, options
        self.recorder: Recorder | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, or go on with the record that is there."""
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        options = {"optimizer": optimizer, **self._options}
        self.recorder = Recorder(pl_module, self._path, **options)
        for logger in trainer.loggers if self._log else ():
            self.recorder.log_to(logger)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        """An update, unless gradients are still being accumulated."""
        if self.recorder is not None and trainer.global_step:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            epoch, step = trainer.current_epoch, trainer.global_step
            self.recorder.step(loss=loss, epoch=epoch, step=step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The last step."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Where it stood when it ended."""
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            recorder.__exit__(type(exception), exception, None)

    def _close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()
        self.recorder = None
