"""An exported network in onnxruntime, beside torch's own export: milliseconds a run, one thread."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from bncheck.shipping.sessions import Runnable, latency
from tests.benchmarks.calls import say
from tests.benchmarks.table import Peer, Row


def rows(folder: Path) -> Iterator[Row]:
    """A DenseNet-121, half of whose BatchNorms stay, at the level that people use."""
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    exported, plain = (
        Runnable(onnx.load(folder / f"densenet121-{name}.onnx")) for name in ("exported", "plain")
    )
    ours, theirs = latency(exported, plain, [x], "extended")
    work = "a run of the exported DenseNet-121 at level extended"
    yield Row(work, ours, (Peer("torch.onnx.export's", theirs),), unit="ms", wanted="1.03")


if __name__ == "__main__":
    say(rows(Path(sys.argv[1])))
