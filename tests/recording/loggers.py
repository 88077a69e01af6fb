"""What real loggers hold of a recorded training, read back: wandb, offline, and mlflow.

mlflow is not in the suite, for it brings fastapi, cryptography and 21 more packages: install it
elsewhere, `pip install --target FOLDER mlflow-skinny`, and run `python -m tests.recording.loggers`
with PYTHONPATH=FOLDER.
"""

from __future__ import annotations

import json
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


def wandb_tells(folder: Path) -> list[dict[str, Any]]:
    """What is in the file that wandb would upload: a dictionary for each step, by name."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    run = wandb.init(project="bncheck", mode="offline", dir=str(folder), settings=settings)
    train(folder / "record", run)
    run.finish()
    wandb.teardown()
    (file,) = folder.rglob("*.wandb")
    rows = []
    for data in logged(file.read_bytes()):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        record.ParseFromString(data)
        if record.history.item:
            items = ((".".join(i.nested_key) or i.key, i.value_json) for i in record.history.item)
            rows.append({name: json.loads(text) for name, text in items})
    return rows


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
    with tempfile.TemporaryDirectory() as folder:
        steps = mlflow_tells(Path(folder))
    print(f"mlflow: W2 at steps {steps}: {'right' if steps == STEPS else 'WRONG'}")
    sys.exit(steps != STEPS)


if __name__ == "__main__":
    main()
