"""Real wandb (offline) and mlflow (a folder of files): `python -m tests.recording.loggers`.

Not in the suite: they bring some forty packages and take seconds to start. Install them elsewhere,
`pip install --target FOLDER wandb mlflow-skinny`, and run this with PYTHONPATH=FOLDER.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bncheck.recording import Recorder
from tests.recording.training import Training, batch

STEPS = [1, 20, 40]
_BLOCK, _WHOLE, _LAST = 1 << 15, 1, 4


def train(folder: Path, target: Any) -> None:
    training = Training(steps=STEPS[-1])
    recorder = Recorder(training.model, folder, every=20)
    recorder.log_to(target, histograms=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(training.steps):
        recorder.step(loss=training.step(*batch(generator)))
    recorder.close()


def wandb_tells(folder: Path) -> list[int]:
    """The steps of W2 in the file that wandb would upload."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    settings = wandb.Settings(console="off", silent=True)
    run = wandb.init(project="bncheck", mode="offline", dir=str(folder), settings=settings)
    train(folder / "record", run)
    run.finish()
    (file,) = folder.rglob("*.wandb")
    steps = []
    for data in logged(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {".".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
        if "bncheck/w2/1" in items:
            steps.append(int(items["bncheck/step"]))
    return steps


def logged(data: bytes) -> Iterator[bytes]:
    """The records: blocks of 32 KiB, each piece with a checksum, its length and its kind.

    https://github.com/google/leveldb/blob/main/doc/log_format.md; the file begins with 7 bytes.
    """
    place, parts = 7, []
    while place + 7 <= len(data):
        if _BLOCK - place % _BLOCK < 7:
            place += _BLOCK - place % _BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (_WHOLE, _LAST):
            yield b"".join(parts)
            parts = []


def mlflow_tells(folder: Path) -> list[int]:
    """The steps of W2 in the folder that mlflow keeps."""
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    import mlflow

    mlflow.set_tracking_uri((folder / "store").as_uri())
    mlflow.set_experiment("bncheck")
    with mlflow.start_run() as run:
        train(folder / "record", mlflow)
    client = mlflow.MlflowClient()
    return [metric.step for metric in client.get_metric_history(run.info.run_id, "bncheck/w2/1")]


def main() -> None:
    torch.set_num_threads(1)
    for name, tells in (("wandb", wandb_tells), ("mlflow", mlflow_tells)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                steps = tells(Path(folder))
            except ModuleNotFoundError as error:
                print(f"{name}: not tried ({error})")
                continue
        print(f"{name}: W2 at steps {steps}: {'right' if steps == STEPS else 'WRONG'}")
        if steps != STEPS:
            sys.exit(1)


if __name__ == "__main__":
    main()
