"""What test_distributed.py runs in two processes.

The scenarios run one after another in the same two processes, because starting a process costs
seconds; each has a port of its own, and the first torchrun's. What each rank said goes to
FOLDER/RANK.json. `MODE` is what is wrong with rank 1.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from bncheck.cli import run
from bncheck.data import DataOptions, open_data
from bncheck.measuring.cascades import Cascade, run_cascade
from bncheck.measuring.distributed import Processes, launched_processes
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.moments import Moments
from bncheck.measuring.preprocessing import search
from bncheck.measuring.reruns import Rerunning
from bncheck.measuring.run import Run
from bncheck.subject.module_layers import layers_of
from tests.planted import SAMPLES

HERE = "tests.measuring.ranks"
BATCH = 64
BATCH_OF_FAR = 40
FEW = 8  # of so many images the preparations are tried
MODEL = ("--model", f"{HERE}:model")
LOADER = ("--data", f"{HERE}:batches")
DIGITS = ("--data", "digits.npz")
REPORT = ("--report", "json:report.json")
SLEEP = 5.0


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def mode() -> str:
    return os.environ.get("MODE", "") if rank() else ""


def digits() -> tuple[Tensor, Tensor]:
    with np.load(SAMPLES / "digits-train.npz") as arrays:
        x, y = (torch.from_numpy(arrays[name][:640]) for name in ("x", "y"))
    return x.float(), y


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Ten batches; rank 1 has a mishap before the fourth."""
    x, y = digits()
    for place in range(0, len(x), BATCH):
        if place == 3 * BATCH:
            if mode() == "raises":
                raise ValueError("the disk is full")
            if mode() == "is interrupted":
                raise KeyboardInterrupt
            if mode() == "is killed":
                os._exit(9)
            if mode() == "sleeps":
                time.sleep(SLEEP)
            if mode() == "has fewer batches":
                return
        yield x[place : place + BATCH], y[place : place + BATCH]


def sampled() -> DataLoader[Any]:
    """As in training: each rank its part, of which one may be shorter."""
    data = TensorDataset(*(tensor[:600] for tensor in digits()))
    return DataLoader(data, 40, sampler=DistributedSampler(data, drop_last=False))


def model() -> nn.Module:
    sys.path.insert(0, str(SAMPLES))
    from nets import DigitNet

    class Louder(DigitNet):  # the same weights and the same words for it
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(2 * x)

    class Choosy(DigitNet):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == FEW and mode() == "is interrupted while searching":
                raise KeyboardInterrupt
            if len(x) == FEW:
                raise ValueError("too few images")
            return super().forward(x)

    Louder.__name__ = Choosy.__name__ = "DigitNet"
    choosy = mode() in ("is interrupted while searching", "rejects what it tries")
    built = Choosy() if choosy else Louder() if mode() == "runs other code" else DigitNet()
    if mode() == "has another architecture":
        built.extra = nn.Identity()
    return built.double() if mode() == "has another dtype" else built


def metric(output: Tensor, target: Tensor) -> float:
    if mode() == "has no metric":
        raise ValueError("no metric here")
    return float((output.argmax(1) == target).float().mean())


def inspect(*words: str, data: tuple[str, ...] = LOADER, file: str = "stale.pt") -> list[str]:
    return ["inspect", file, *MODEL, *data, "--json", *REPORT, *words]


def recalibrate(*words: str, data: tuple[str, ...] = LOADER) -> list[str]:
    return ["recalibrate", "stale.pt", *MODEL, *data, "-o", "out.pt", *words]


def scenarios() -> dict[str, list[str]]:
    """Command lines by what is wrong with rank 1, the order that of the ports."""
    second = rank() == 1
    return {
        "": inspect(),
        "measures sorted classes": inspect(file="class-sorted.pt"),
        "measures the wrong scale": inspect(file="wrong-input-scale.pt"),
        "has fewer batches": inspect(),
        "has a sampler": inspect(data=("--data", f"{HERE}:sampled")),
        "measures a series": ["drift", "healthy.pt", "stale.pt", *MODEL, *LOADER, "--shape",
                              "--json", *REPORT],
        "raises": inspect(),
        "is interrupted": inspect(),
        "is interrupted while searching": inspect(),
        "rejects what it tries": inspect(),
        "has another architecture": inspect(),
        "has another dtype": inspect(),
        "runs other code": inspect(),
        "holds other weights": inspect(file="mixed.pt"),
        "holds another file": ["inspect", "mixed.pt", *REPORT],
        "lacks a file": inspect("healthy.pt", file="only.pt"),
        "reads other data": inspect(data=("--data", "mixed.npz")),
        "has another option": inspect("--batch-size", "32" if second else "64", data=DIGITS),
        "has another key": inspect(*(["--key", "ema"] if second else [])),
        "has another version": inspect(),
        "writes": recalibrate(),
        "has no metric": recalibrate("--metric", f"{HERE}:metric"),
        "sleeps": inspect("--timeout", "2"),
    }  # fmt: skip


def prepared(folder: Path) -> None:
    """A folder for each rank, some of whose files differ."""
    folder.mkdir()
    for name in ("stale.pt", "healthy.pt", "class-sorted.pt", "wrong-input-scale.pt"):
        shutil.copy(SAMPLES / name, folder)
    shutil.copy(SAMPLES / ("stale.pt" if rank() else "healthy.pt"), folder / "mixed.pt")
    if not rank():
        shutil.copy(SAMPLES / "stale.pt", folder / "only.pt")
    x, y = (tensor.numpy() for tensor in digits())
    np.savez(folder / "digits.npz", x=x, y=y)
    x[-1] += rank()
    np.savez(folder / "mixed.npz", x=x, y=y)


def said_by(arguments: list[str]) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    began = time.monotonic()
    with (
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), counted() as sent,
    ):  # fmt: skip
        code = run(arguments)
    took = time.monotonic() - began
    files = [name for name in ("report.json", "out.pt") if Path(name).exists()]
    for name in files:
        Path(name).unlink()
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "files": files,
            "seconds": took, "sent": sum(sent)}  # fmt: skip


@contextlib.contextmanager
def counted() -> Iterator[list[int]]:
    """The sizes of the batches that are sent through the network, whole or in part."""
    sent: list[int] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if type(module).__name__ == "DigitNet":
            sent.append(len(args[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(before)
    try:
        yield sent
    finally:
        handle.remove()


def far() -> tuple[nn.Module, Tensor]:
    """A network, and data whose mean is 500 of their deviations."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5),
        nn.BatchNorm1d(5),
    )  # fmt: skip
    return net, torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 + 1000


def packed(processes: Processes) -> dict[str, Any]:
    """Both cascades on eight batches."""
    net, x = far()
    subject = Instrumented.of(net)
    found: dict[str, Any] = {}
    for cascade in Cascade:
        data = open_data(x, DataOptions(batch_size=27))  # the last round is not full
        seen = run_cascade(subject, data, cascade, Run(processes=processes))
        found |= {f"{cascade.value} {n}": m.pack() for n, m in seen.moments.items()}
    return found


def searched(processes: Processes) -> tuple[dict[str, Any], dict[str, int]]:
    """What looking for causes finds, and how many samples each question sent through the network.

    Its root is called for those that end at the first layer, too.
    """
    net, x = far()
    run, data = Run(processes=processes), open_data(x, DataOptions(batch_size=BATCH_OF_FAR))
    subject = Instrumented.of(net)
    (stem, *_), (norm, *_) = layers_of(subject), subject.norms
    kinds = {number: np.arange(batch.size) % 5 for number, batch in enumerate(data)}
    asked = Rerunning(subject, data, run, kinds)
    questions: dict[str, Callable[[], Mapping[str, Moments]]] = {
        "changed": lambda: asked.changed(lambda x: x / 2),
        "kinds": lambda: {f"{k} {n}": m for k, s in asked.of_each_kind().items()
                          for n, m in s.items()},
        "shares": lambda: asked.in_shares({0: 0.75, 1: 0.25}),
        "code": lambda: {f"{r.words} {n}": m for r in asked.other_code(lambda *_: False)
                         for n, m in r.moments.items()},
    }  # fmt: skip
    sent: list[int] = []
    net.register_forward_pre_hook(lambda _, args: sent.append(len(args[0])))
    found: dict[str, Any] = {}
    samples: dict[str, int] = {}
    for question, ask in questions.items():
        found |= {f"{question} {name}": seen.pack() for name, seen in ask().items()}
        samples[question], sent[:] = sum(sent), []
    candidates = search(net, norm, stem, data, run)
    found |= {f"search {c.name}": np.array(c.w2) for c in candidates}
    return found, {**samples, "search": sum(sent)}


def main(folder: Path, ports: list[str]) -> None:
    torch.set_num_threads(1)
    prepared(folder / str(rank()))
    os.chdir(folder / str(rank()))
    told = {}
    for (name, arguments), port in zip(scenarios().items(), ports, strict=False):
        if name:
            os.environ.update(MODE=name, MASTER_PORT=port, TORCHELASTIC_USE_AGENT_STORE="False")
        with pytest.MonkeyPatch.context() as patch:
            if mode() == "has another version":
                patch.setattr("bncheck.measuring.distributed.__version__", "0.0.1")
            told[name] = said_by(arguments)
    (folder / f"{rank()}.json").write_text(json.dumps(told))
    os.environ["MASTER_PORT"] = ports[-1]
    with launched_processes(60) as processes:
        found, samples = searched(processes)
        np.savez(folder / f"{rank()}.npz", **packed(processes), **found)
    (folder / f"{rank()}-samples.json").write_text(json.dumps(samples))
